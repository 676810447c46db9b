import csv
import pathlib

import flax.linen as nn
import jax
import pytest

import dorefa_jax as dorefa

PAPER = pathlib.Path(__file__).parent.parent / "dorefa_study" / "paper"
COLUMNS = (("inference", "inference_complexity"), ("training", "training_complexity"), ("storage", "storage"))
ERRATUM = ("2", "2", "2")  # table 1 prints storage 1 for two-bit weights


def rows():
  for table in ("table1_svhn", "table2_imagenet_alexnet"):
    with open(PAPER / f"{table}.csv", newline="") as file:
      for row in csv.DictReader(file):
        yield pytest.param(
          row, id=f"{table}-{row['weights']},{row['activations']},{row['gradients']}-{row.get('note')}"
        )


@pytest.mark.parametrize("row", list(rows()))
def test_columns_of_every_row_of_the_paper(row):
  setting = (row["weights"], row["activations"], row["gradients"])
  cost = dorefa.complexity(dorefa.BitWidths.parse(",".join(setting)))
  for field, column in COLUMNS:
    if row[column]:
      printed = int(row[column])
      expected = 2 if setting == ERRATUM and field == "storage" else printed
      assert getattr(cost, field) == expected
      assert printed == expected or setting == ERRATUM


def test_summary_of_the_papers_model():
  bits = dorefa.BitWidths(1, 2, 4)
  table = dorefa.summary(dorefa.models.SvhnConvNet(), (128, 40, 40, 3), bits=bits)
  assert (table.macs, table.weights) == (41_735_424, 2_080_272)
  assert [layer.name for layer in table.layers] == [*(f"conv{i}" for i in range(7)), "fc"]
  by_name = {layer.name: layer for layer in table.layers}
  assert by_name["conv1"].bits == bits
  assert by_name["conv1"].bit_operations == 2 * by_name["conv1"].macs
  assert by_name["conv0"].bit_operations is by_name["fc"].bit_operations is None
  assert by_name["conv6"].weight_bytes == 5 * 5 * 128 * 512 // 8
  assert by_name["conv6"].float_bytes == 32 * by_name["conv6"].weight_bytes
  assert by_name["conv1"].activation_bytes == 18 * 18 * 48 * 2 // 8
  text = str(table)
  assert "conv6" in text
  assert "41,735,424" in text
  assert len({len(line.rstrip()) for line in text.splitlines()[1:2]}) == 1


def test_summary_bytes_add_up(key):
  model = dorefa.models.SvhnConvNet(width=0.25)
  table = dorefa.summary(model, (1, 40, 40, 3), bits=dorefa.BitWidths())
  variables = jax.eval_shape(lambda: model.init(key, jax.numpy.zeros((1, 40, 40, 3))))
  total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables))
  assert table.weight_bytes + table.other_bytes == total
  assert table.parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_summary_of_flax_layers_shared_layers_and_call_options():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, repeat):
      x = nn.Conv(4, (3, 3), feature_group_count=2)(x)
      dense = dorefa.linen.Dense(4, bits=dorefa.BitWidths(1, 1, 32), name="shared")
      for _ in range(repeat):
        x = dense(x)
      return x

  table = dorefa.summary(Net(), (5, 8, 8, 2), repeat=3)
  assert [layer.name for layer in table.layers] == ["Conv_0", "shared", "shared", "shared"]
  assert table.layers[0].macs == 8 * 8 * 4 * 9 * 1
  assert table.weights == 9 * 4 + 16
  assert table.macs == table.layers[0].macs + 3 * 8 * 8 * 16
  assert table.weight_bytes == 4 * 9 * 4 + 2


def test_summary_of_one_layer():
  assert dorefa.summary(nn.Dense(3), (1, 4)).layers[0].name == "model"


def test_summary_refuses_layers_it_would_miscount():
  class Body(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      return nn.Dense(4)(x), None

  class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
      scan = nn.scan(Body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
      return scan()(x, None)[0]

  with pytest.raises(ValueError, match=r"under nn\.scan"):
    dorefa.summary(Scanned(), (2, 4))


def test_summary_refuses_what_what_is_no_linen_module():
  with pytest.raises(TypeError, match=r"flax\.linen module, got int"):
    dorefa.summary(3, (1, 4))


@pytest.mark.parametrize(
  ("layer", "shape", "macs"),
  [
    (dorefa.linen.Conv(8, (3, 3)), (8, 8, 3), 13824),
    (nn.Conv(8, (3,)), (8, 3), 8 * 8 * 3 * 3),
    (dorefa.linen.Dense(8), (8,), 64),
    (nn.Sequential([nn.Conv(8, (3, 3)), nn.Conv(4, (1, 1))]), (8, 8, 3), 13824 + 64 * 8 * 4),
  ],
)
def test_summary_of_one_example_without_a_batch_axis(layer, shape, macs):
  assert dorefa.summary(layer, shape).macs == dorefa.summary(layer, (4, *shape)).macs == macs


def test_summary_refuses_layers_that_never_see_a_batch():
  class Flat(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(4)(x.reshape(-1))

  with pytest.raises(ValueError, match=r"Dense_0: its input \(8,\) has no batch axis"):
    dorefa.summary(Flat(), (2, 4))


def test_summary_refuses_layers_of_other_batches():
  class Constant(nn.Module):
    @nn.compact
    def __call__(self, x):
      return x + nn.Dense(4)(jax.numpy.ones((1, 3)))

  with pytest.raises(ValueError, match=r"Dense_0: its input \(1, 3\) is not of 2 examples"):
    dorefa.summary(Constant(), (2, 4))


@pytest.mark.parametrize("shape", [(), (0, 4), (-1, 4)])
def test_summary_refuses_empty_shapes(shape):
  with pytest.raises(ValueError, match="positive sizes with the batch first"):
    dorefa.summary(nn.Dense(3), shape)


@pytest.mark.parametrize("batch", [1, 5])
def test_summary_is_of_one_example(batch):
  table = dorefa.summary(dorefa.linen.Conv(8, (3, 3)), (batch, 8, 8, 3))
  assert (table.macs, table.layers[0].output_shape) == (13824, (8, 8, 8))
