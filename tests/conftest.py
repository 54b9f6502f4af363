"""What the tests share: tiny models built from a config, small data sets, and no network."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

# Before anything imports transformers or datasets: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mmkd-tests-")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("MMKD_FULL", "0") in {"", "0"}:
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(
                    pytest.mark.skip(reason="takes minutes; runs with MMKD_FULL=1 (make torture)")
                )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED_DATA


def byte_tokenizer(max_length: int = 77, *, starts: bool = True):
    """One token a byte, wrapped in start and end tokens as CLIP's are; padded with the end token.

    Without ``starts`` a text only ends, as SigLIP's do.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, start, end])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([start, end])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}" if starts else f"$A {end}",
        special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"] if starts else ["input_ids"],
    )


def save_tiny_clip(folder: Path, *, layers: int = 4, seed: int = 0) -> Path:
    """Save a random CLIP of ``layers`` + ``layers`` layers with tokenizer and image processor."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tokenizer = byte_tokenizer()
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
    }
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def save_tiny_siglip(folder: Path, *, layers: int = 4, seed: int = 0) -> Path:
    """Save a random SigLIP of ``layers`` + ``layers`` layers with tokenizer and image processor."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    tokenizer = byte_tokenizer(64, starts=False)
    tower = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
    }
    config = SiglipConfig(
        text_config={**tower, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SiglipModel(config)
        with torch.no_grad():  # a trained model's, about; transformers leaves them at 0
            model.logit_scale.fill_(4.7)
            model.logit_bias.fill_(-12.5)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 4 + 4-layer SigLIP: 32 x 32 pixels, 64 tokens, joint space of 48."""
    return save_tiny_siglip(tmp_path_factory.mktemp("models") / "tiny-siglip")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 4 + 4-layer CLIP: 32 x 32 pixels, projection 32."""
    return save_tiny_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


def draw_pair(number: int) -> tuple[Image.Image, str]:
    """A 40 x 32 picture of one shape on a noisy ground, with its caption; equal for equal numbers."""
    noise = np.random.default_rng(number).integers(0, 80, (32, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    colour, shape = COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)]
    left, top = 2 + number % 7, 2 + number % 5
    draw = getattr(ImageDraw.Draw(image), "ellipse" if shape == "circle" else "rectangle")
    draw((left, top, left + 20, top + 20), fill=colour)
    return image, f"a {colour} {shape}, number {number % 12}"


def save_pairs(path: Path, images: list, captions: list, feature=None) -> Path:
    """Save images (``PIL`` or bytes) and captions as the Parquet that ``datasets`` writes."""
    import io

    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    def encode(image) -> bytes:
        if isinstance(image, bytes):
            return image
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return stream.getvalue()

    features = Features({"image": ImageFeature(), "caption": feature or Value("string")})
    rows = {"image": [{"bytes": encode(image), "path": None} for image in images], "caption": captions}
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return path


@pytest.fixture(scope="session")
def pairs_parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file of 96 pictures (``image``) with one ``caption`` each; 12 captions occur."""
    images, captions = zip(*map(draw_pair, range(96)), strict=True)
    return save_pairs(tmp_path_factory.mktemp("data") / "pairs.parquet", list(images), list(captions))


@pytest.fixture(scope="session")
def tiny_encoder(tiny_clip: Path):
    """``tiny_clip`` as a ``PairEncoder`` on the CPU."""
    import torch

    from mmkd.encoders import load_encoder

    return load_encoder(tiny_clip, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def tiny_pairs(pairs_parquet: Path):
    """``pairs_parquet`` as a ``PairDataset``."""
    from mmkd.data import DataSource, open_pairs

    return open_pairs([DataSource(str(pairs_parquet))])


@pytest.fixture(scope="session")
def tiny_cache(tiny_encoder, tiny_pairs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache of ``tiny_pairs`` by ``tiny_encoder``: 96 rows in 5 shards. Copy it before changing it."""
    from mmkd.cache.build import build_cache

    folder = tmp_path_factory.mktemp("caches") / "cache"
    build_cache(tiny_encoder, tiny_pairs, folder, shard_rows=20, batch_size=8)
    return folder


@pytest.fixture
def copied_cache(tiny_cache: Path, tmp_path: Path) -> Path:
    """A copy of ``tiny_cache`` that a test may damage, without what other tests have mined in it."""
    mined = shutil.ignore_patterns("neighbours-*", ".neighbours-*")
    return Path(shutil.copytree(tiny_cache, tmp_path / "cache", ignore=mined))


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory):
    """The server that starts commands which are to be killed, or whose disk is to fail."""
    from cache_processes import Processes

    started = Processes(tmp_path_factory.mktemp("processes"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def workload(processes, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory):
    """What those commands are to do."""
    from cache_processes import make_workload

    return make_workload(tmp_path_factory.mktemp("workload"), tiny_clip, processes)
