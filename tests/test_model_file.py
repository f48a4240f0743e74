"""A model.onnx of others: a model that answers as it should, or one sentence; a damaged one is no other model."""

import json
import os
import random
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import assert_one_sentence
from onnx import TensorProto, helper, numpy_helper

from mnist_fastai import InputError, RunError, Session, pretrained
from mnist_fastai.reader import session
from mnist_fastai.reader.seal import check_seal, seal

ONNX = pretrained() / "model.onnx"
CLASSES = json.dumps(list("0123456789"))


@pytest.fixture
def image(mnist) -> np.ndarray:
    return mnist.test.images[:20].numpy()


def model(body: str = "flat", classes: str | None = CLASSES, width: int = 10, name: str = "probabilities") -> bytes:
    """An ONNX file that is in its form like those of this package: images to probabilities of equal size."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 28, 28])
    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
    weight = numpy_helper.from_array(np.zeros((784, width), np.float32), "w")
    shape = numpy_helper.from_array(np.array([-1, 784]), "shape")
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["x", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["soft"], axis=1),
    ]
    extra = [weight, shape]
    if body == "nan":
        nodes += [helper.make_node("Log", ["logits"], ["low"]), helper.make_node("Sub", ["low", "low"], [name])]
    elif body == "negative":
        nodes.append(helper.make_node("Neg", ["soft"], [name]))
    elif body == "sum":
        nodes.append(helper.make_node("Add", ["soft", "soft"], [name]))
    elif body == "loop":
        end = [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s2", TensorProto.FLOAT, None),
        ]
        start = [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go0", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s1", TensorProto.FLOAT, None),
        ]
        inner = [helper.make_node("Identity", ["go0"], ["go"]), helper.make_node("Abs", ["s1"], ["s2"])]
        extra += [numpy_helper.from_array(np.array(2**62), "times"), numpy_helper.from_array(np.array(True), "yes")]
        nodes.append(
            helper.make_node("Loop", ["times", "yes", "soft"], [name], body=helper.make_graph(inner, "b", start, end))
        )
    elif body == "huge":
        extra.append(numpy_helper.from_array(np.array([10**6, 10**6, 10]), "big"))
        nodes += [
            helper.make_node("Slice", ["soft", "zero", "one"], ["first"]),
            helper.make_node("Expand", ["first", "big"], ["wide"]),
            helper.make_node("ReduceSum", ["wide", "axes"], ["small"], keepdims=0),
            helper.make_node("Add", ["soft", "small"], [name]),
        ]
        extra += [numpy_helper.from_array(np.array([v]), k) for k, v in {"zero": 0, "one": 1, "axes": 0}.items()]
    else:
        nodes.append(helper.make_node("Identity", ["soft"], [name]))
    graph = helper.make_graph(nodes, "g", [images], [out], extra)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(proto, {} if classes is None else {"classes": classes})
    return proto.SerializeToString()


def answer(path, images) -> None:
    opened = Session(path)
    if images is not None:
        opened.probabilities(images)


def refused(path, error=InputError, images=None) -> str:
    with pytest.raises(error) as caught:
        answer(path, images)
    assert_one_sentence(str(caught.value))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_model_of_others_that_is_right_is_taken(tmp_path, image):
    (tmp_path / "m.onnx").write_bytes(model())
    assert Session(tmp_path / "m.onnx").probabilities(image) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "classes",
    [None, "", "no JSON", "[" * 10_000, "{}", "7", '["a"]', json.dumps(["a"] * 10), json.dumps(list(range(10)))],
)
def test_class_names_that_are_none_are_refused(tmp_path, classes):
    (tmp_path / "m.onnx").write_bytes(model(classes=classes))
    refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("changes", [{"name": "others"}, {"width": 9}])
def test_other_outputs_are_refused(tmp_path, changes):
    (tmp_path / "m.onnx").write_bytes(model(**changes))
    assert "probabilities" in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("body", ["nan", "negative", "sum"])
def test_answers_that_are_no_probabilities_are_an_error(tmp_path, body, image):
    (tmp_path / "m.onnx").write_bytes(model(body))
    refused(tmp_path / "m.onnx", InputError, image)


def test_a_model_that_never_ends_is_ended(tmp_path, image, monkeypatch):
    monkeypatch.setattr(session, "TIME_LIMIT", 0.5)
    (tmp_path / "m.onnx").write_bytes(model("loop"))
    assert "0.5 seconds" in refused(tmp_path / "m.onnx", RunError, image)


def test_a_model_that_takes_all_memory_is_one_sentence(tmp_path, image):
    (tmp_path / "m.onnx").write_bytes(model("huge"))
    assert "GiB" in refused(tmp_path / "m.onnx", RunError, image)


def test_weights_in_other_files_are_not_read(tmp_path, monkeypatch):
    proto = onnx.load_from_string(model())
    monkeypatch.chdir(tmp_path)
    onnx.save(
        proto, "m.onnx", save_as_external_data=True, all_tensors_to_one_file=True, location="w.bin", size_threshold=1000
    )
    assert os.path.getsize("w.bin")
    onnxruntime.InferenceSession((tmp_path / "m.onnx").read_bytes())  # which reads it from the current folder
    assert "other files" in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.mkdir(), lambda p: None])
def test_what_is_no_regular_file_is_no_model(tmp_path, make):
    make(tmp_path / "m.onnx")
    with pytest.raises(InputError) as caught:
        Session(tmp_path / "m.onnx")
    assert_one_sentence(str(caught.value))


def test_a_sealed_file_is_a_model_for_every_other_program(tmp_path, image):
    (tmp_path / "m.onnx").write_bytes(seal(model()))
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    assert check_seal((tmp_path / "m.onnx").read_bytes()) is True
    assert check_seal(model()) is None
    assert Session(tmp_path / "m.onnx").probabilities(image) == pytest.approx(0.1)


def test_a_flipped_bit_of_the_shipped_model_is_never_another_answer(tmp_path, image):
    content, path, rng = ONNX.read_bytes(), tmp_path / "m.onnx", random.Random(0)
    assert check_seal(content)
    expected, refusals = Session(ONNX).probabilities(image), 0
    for bit in [rng.randrange(8 * len(content)) for _ in range(150)] + [
        8 * len(content) - n for n in range(1, 600, 13)
    ]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert np.array_equal(Session(path).probabilities(image), expected)
        except InputError as e:
            refusals += 1
            assert_one_sentence(str(e))
    assert refusals >= 150


def test_predict_refuses_a_damaged_model(cli, tmp_path, image):
    run = shutil.copytree(pretrained(), tmp_path / "run")
    content = bytearray((run / "model.onnx").read_bytes())
    content[300_000] ^= 1
    (run / "model.onnx").write_bytes(content)
    code, out, err = cli("predict", "x.png", "--model", run)
    assert (code, out) == (2, "")
    assert "SHA-256" in err
