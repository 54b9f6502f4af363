"""The families of two-tower models that mmkd reads, and all that sets them apart."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmkd.errors import MmkdError, ModelError, first_line
from mmkd.parse import read_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPModel


@dataclass(frozen=True)
class Family:
    """Where transformers keeps a family's classes, and how its models were trained.

    Attributes:
        name: as its authors call it.
        model: class of the model.
        config: class of its configuration.
        image_processor: class of its preprocessing, with Pillow's resampling.
        padding: ``longest``: texts are padded to the batch's longest, and a mask hides the padding;
            ``max_length``: always to the tower's length, and the model sees the padding.
        parts: of each tower, the model's attributes.
    """

    name: str
    model: str
    config: str
    image_processor: str
    padding: Literal["longest", "max_length"]
    parts: dict[str, tuple[str, ...]]

    def joint_dim(self, config: Any) -> int:
        """D, the width of the joint space of a model of this ``config``, without a head."""
        return int(config.projection_dim if self is CLIP else config.text_config.projection_size)

    def build(self, config: Any) -> "CLIPModel":
        """A model with random weights, from the global random state."""
        import torch
        import transformers

        model: Any = getattr(transformers, self.model)(config)
        if self is SIGLIP:  # transformers leaves both at 0
            with torch.no_grad():
                model.logit_scale.fill_(FIRST_SIGLIP_LOG_SCALE)
                model.logit_bias.fill_(FIRST_LOGIT_BIAS)
        built: CLIPModel = model
        return built


FIRST_LOGIT_BIAS = -10.0  # SigLIP, arXiv 2303.15343, section 3.2: for weights that know nothing yet
FIRST_SIGLIP_LOG_SCALE = 2.302585092994046  # the same section: ln 10

CLIP = Family(
    "CLIP",
    "CLIPModel",
    "CLIPConfig",
    "CLIPImageProcessorPil",
    "longest",
    {"vision": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")},
)
# SigLIP 2's checkpoints of a fixed resolution are SigLIP models, too.
SIGLIP = Family(
    "SigLIP",
    "SiglipModel",
    "SiglipConfig",
    "SiglipImageProcessorPil",
    "max_length",
    {"vision": ("vision_model",), "text": ("text_model",)},
)
FAMILIES = {"clip": CLIP, "siglip": SIGLIP}
_EXPECTED = "a CLIP or a SigLIP (model_type 'clip' or 'siglip')"


def family_of(config: Any) -> Family:
    """The family of a configuration that ``read_model_config`` gave."""
    family: Family = FAMILIES[config.model_type]
    return family


def joint_dim(config: Any) -> int:
    """D, the width of the joint space of a model of this ``config``, without a head."""
    return family_of(config).joint_dim(config)


def own_bias(model: Any) -> "Tensor | None":
    """A model's own logit bias: SigLIP's have one."""
    return getattr(model, "logit_bias", None)


def read_model_config(folder: Path, *, name: str) -> Any:
    """The model's ``CLIPConfig`` or ``SiglipConfig``.

    Raises:
        ModelError: there is no config, or it is another kind of model's.
    """
    import transformers

    family = _read_family(folder, name)
    config = getattr(transformers, family.config).from_pretrained(folder)
    if family is SIGLIP:
        dims = config.vision_config.hidden_size, config.text_config.projection_size
        if dims[0] != dims[1] or not config.vision_config.vision_use_head:
            raise ModelError(
                f"{name} embeds images in {dims[0]} and texts in {dims[1]} dimensions, pooling head "
                f"{config.vision_config.vision_use_head}; expected a SigLIP with one joint space"
            )
    return config


def load_processors(folder: Path, *, name: str) -> tuple[Any, Any]:
    """The model's own image processor (Pillow's resampling, which is OpenAI's) and tokenizer.

    Raises:
        ModelError: either is missing.
    """
    import transformers

    family = _read_family(folder, name)
    try:
        # A student keeps its teacher's preprocessing, which may be of the other family.
        kind = str(read_json(folder / "preprocessor_config.json").get("image_processor_type"))
        others = [one for one in FAMILIES.values() if kind.startswith(one.model.removesuffix("Model"))]
        processor = getattr(transformers, (others or [family])[0].image_processor).from_pretrained(folder)
        tokenizer = _load_tokenizer(folder, family)
    except (MmkdError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{name} lacks its image processor or tokenizer: {first_line(error)}") from error
    return processor, tokenizer


def _load_tokenizer(folder: Path, family: Family) -> Any:
    from tokenizers import normalizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if family is CLIP:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not (folder / "tokenizer.json").is_file():  # AutoTokenizer would want SentencePiece
        raise OSError(f"found no tokenizer.json in {folder}")
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    kind = str(read_json(folder / "tokenizer_config.json").get("tokenizer_class"))
    if kind.startswith(("Gemma", "Siglip2")):
        # SigLIP 2 was trained on lower case, which transformers' own Siglip2Tokenizer folds and its files do not.
        backend = tokenizer.backend_tokenizer
        parts = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
        backend.normalizer = normalizers.Sequence(parts)
    return tokenizer


def _read_family(folder: Path, name: str) -> Family:
    try:
        model_type = read_json(folder / "config.json").get("model_type")
    except MmkdError as error:
        raise ModelError(
            f"{name} holds no readable config.json; expected {_EXPECTED}, as transformers saves it"
        ) from error
    if model_type == "siglip2":
        raise ModelError(
            f"{name} is a Siglip2Model of variable resolution (NaFlex), which mmkd does not read; expected "
            f"{_EXPECTED}, such as SigLIP 2's checkpoints of a fixed resolution"
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelError(f"{name} is a {model_type!r} model; expected {_EXPECTED}")
    return FAMILIES[model_type]
