"""Who may be whose negative, in the batch and in the bank."""

import torch
from pairs import random_bank, random_pairs

from mmkd.embeddings import Embeddings
from mmkd.losses import task
from mmkd.losses.negatives import Bank, all_others, false_negative_threshold, select_negatives

ALL = slice(0, None)


def test_same_caption_or_image_is_never_a_negative() -> None:
    negatives = select_negatives(torch.tensor([5, 6, 5, 7]), torch.tensor([1, 2, 3, 2]))
    expected = ~torch.eye(4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = False  # one caption
    expected[1, 3] = expected[3, 1] = False  # one image
    assert torch.equal(negatives.texts(ALL), expected)
    assert torch.equal(negatives.images(ALL), expected)


def test_a_caption_or_image_of_the_batch_in_the_bank_is_no_negative() -> None:
    bank = Bank(random_pairs(3, 4, 0), torch.tensor([5, 9, 8]), torch.tensor([20, 2, 21]))
    negatives = select_negatives(torch.tensor([5, 6]), torch.tensor([1, 2]), bank=bank)
    expected = torch.tensor([[False, True, False, True, True], [True, False, True, False, True]])
    assert torch.equal(negatives.texts(ALL), expected)
    assert torch.equal(negatives.images(ALL), expected)


def test_what_the_teacher_takes_for_a_match_is_no_negative() -> None:
    # To image 0 the teacher gives text 0 the score 0.8, text 1 0.79 (above 95 % of it) and text 2 0.6.
    texts = torch.eye(3)
    images = torch.tensor([[0.8, 0.79, 0.6], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    ids = torch.arange(3)
    negatives = select_negatives(ids, ids, Embeddings(images, texts))
    assert negatives.texts(ALL)[0].tolist() == [False, False, True]
    # The same, with texts 1 and 2 in the bank.
    teacher, rest = Embeddings(images[:1], texts[:1]), Embeddings(images[1:], texts[1:])
    bank = Bank(rest, ids[1:], ids[1:])
    assert select_negatives(ids[:1], ids[:1], teacher, bank).texts(ALL).tolist() == [[False, False, True]]


def test_a_block_of_rows_is_a_part_of_the_whole() -> None:
    teacher, bank = random_pairs(9, 8, 0), random_bank(4, 8, 1)
    negatives = select_negatives(torch.arange(9) // 2, torch.arange(9), teacher, bank)
    for rows_of in (negatives.texts, negatives.images, negatives.draws):
        assert rows_of(ALL).shape == (9, 13)
        assert torch.equal(rows_of(slice(3, 7)), rows_of(ALL)[3:7])


def test_draws_depend_on_the_ids_alone_and_are_spread() -> None:
    ids = torch.arange(200)
    draws = all_others(200).draws(ALL)
    assert torch.equal(draws, select_negatives(ids, ids, random_pairs(200, 4, 0)).draws(ALL))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(select_negatives(ids[order], ids[order]).draws(ALL), draws[order][:, order])
    counts = draws.argmax(dim=1).bincount(minlength=200)
    # 200 throws into 200 places leave a share of 1/e empty, and none with very many.
    assert 50 < (counts == 0).sum() < 100
    assert counts.max() < 9
    assert (draws < 0).float().mean().sub(0.5).abs() < 0.02


def test_random_negatives_may_come_from_the_bank() -> None:
    student, ids, bank = random_pairs(40, 8, 0), torch.arange(40), random_bank(400, 8, 1)
    alone = task.triplet(student, select_negatives(ids, ids), choice="random", margin=0.5)
    with_bank = select_negatives(ids, ids, bank=bank)
    got = task.triplet(student, with_bank, choice="random", margin=0.5, bank=bank)
    assert got != alone
    picked = with_bank.draws(ALL).argmax(dim=1)
    assert 0.8 < (picked >= 40).float().mean() < 1


def test_threshold_lies_below_the_positive_even_if_negative() -> None:
    torch.testing.assert_close(
        false_negative_threshold(torch.tensor([0.4, 0.0, -0.2])), torch.tensor([0.38, 0.0, -0.21])
    )
