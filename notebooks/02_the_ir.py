# %% [markdown]
# # The IR and its text
#
# Inside leptonc a model is a *function*: a list of operations, each with its operands, its result
# and the result's type. This notebook reads one, runs it, changes its text and runs it again.
#
# The model is a small network with trained weights that reads digits (`notebooks/digits.py`).

# %%
import difflib

import matplotlib.pyplot as plt
import networkx
import torch
from digits import load_digits, load_net

import leptonc
from leptonc import meaning
from leptonc.ir.kinds.data import Constant
from leptonc.ir.text import constants, dump, parse

model = load_net()
images, labels = load_digits()
fn = leptonc.capture(model, images[:1])
print(f"{len(fn.ops)} operations, {len(images):,} digits to read")

# %% [markdown]
# ## Reading it
#
# One operation a line: `%result = kind{attributes}(%operands) : type`, and after `//` the layer
# and the source line of the model that it comes from. A type is the kind of number and the shape:
# `f32[1,10]` is one row of ten floats.
#
# Weights are not in the text. `const<sha256:...>` is the first part of a hash of their bytes: two
# weights with the same hash are the same weights. `dump(fn)` is this text, without the colours.

# %%
fn

# %% [markdown]
# Every value is made once and never changes. So the function is also a graph: this one without
# its weights.

# %%
graph = networkx.DiGraph()
shown = [op for op in fn.ops if not isinstance(op.kind, Constant)]
for op in shown:
    for value in op.operands:
        maker = fn.producer.get(value)
        if maker is None or maker in shown:
            graph.add_edge(maker or "input", op)
place = {node: (i, 0) for i, node in enumerate(networkx.topological_sort(graph))}
text = {node: node if node == "input" else node.kind.NAME for node in graph}
types = {
    (a, b): str(b.operands[0].type).replace("[", "\n[") for a, b in graph.edges
}  # what flows along the edge

figure, axis = plt.subplots(figsize=(11, 1.6))
networkx.draw(graph, place, ax=axis, node_size=1500, node_color="#f3d9c2", arrowsize=12)
networkx.draw_networkx_labels(graph, place, text, ax=axis, font_size=7)
for (a, b), label in types.items():
    middle = (place[a][0] + place[b][0]) / 2
    axis.text(middle, -0.06, label, ha="center", va="top", fontsize=7)
axis.set_ylim(-0.1, 0.06)
plt.show()

# %% [markdown]
# ## Running it
#
# `meaning.run` computes a function operation by operation with torch. It is the reference:
# whatever a pass makes of the function must compute the same. Here it shows what flows through
# the network on the way to an answer: some channels after each convolution, activation and pool.

# %%
seen = {}
(scores,) = meaning.run(fn, images[:1], observe=lambda op, made: seen.update({op: made[0]}))
maps = [(op, made) for op, made in seen.items() if made.dim() == 4 and op in shown]

figure, axes = plt.subplots(len(maps), 9, figsize=(11, 1.25 * len(maps)))
for row, (op, made) in zip(axes, maps, strict=True):
    row[0].text(1, 0.5, f"{op.kind.NAME}\n{op.result.type}", ha="right", va="center", fontsize=9)
    for axis, channel in zip(row[1:], made[0], strict=False):
        axis.imshow(channel, cmap="magma")
    for axis in row:
        axis.axis("off")
plt.show()
with torch.no_grad():
    assert torch.equal(scores, model(images[:1]))
print(f"the image shows {labels[0]}, the largest score is that of {scores.argmax()}")

# %% [markdown]
# ## Text and function are the same thing
#
# `parse` reads the text back. The weights come from a store, by their hashes. What a pass is
# given in a test, and what a bug report holds, is this text.

# %%
store = constants(fn)
again = parse(dump(fn), store)
assert dump(again) == dump(fn)
assert torch.equal(meaning.run(again, images[:1])[0], scores)
print(f"{len(fn.ops)} operations, {len(store)} weights, the same result")

# %% [markdown]
# So a program can be changed with an editor. What happens without the second activation? We take
# its line out and let its readers read its operand.

# %%
line = next(s for s in dump(fn).splitlines() if s.lstrip().startswith("%relu_1 = "))
operand = line.partition("(")[2].partition(")")[0]
edited = dump(fn).replace(line + "\n", "").replace("(%relu_1)", f"({operand})")
changed = parse(edited, store)

old, new = dump(fn).splitlines(), edited.splitlines()
for row in difflib.unified_diff(old, new, "before", "after", n=0, lineterm=""):
    print(row)


def right(function):
    """Return how many of every 25th digit a function reads right."""
    found = [meaning.run(function, image[None])[0].argmax() for image in images[::25]]
    return int((torch.stack(found) == labels[::25]).sum())


print(f"\nof {len(labels[::25])} digits: right before {right(fn)}, after {right(changed)}")

# %% [markdown]
# Text that is no program is refused, with the line and what is wrong. Types are checked: a linear
# layer that expects other sizes does not get in.

# %%
try:
    parse(dump(fn).replace("reshape{shape=(1, 3136)}", "reshape{shape=(2, 1568)}"), store)
except leptonc.LeptoncError as e:
    print(e)

# %% [markdown]
# ## After the passes
#
# The optimizer takes a function and gives a new one; the old one is still there. At the end every
# operation is in a `unit`, with a function of its own inside: what runs as one piece. `@0231`
# behind a type is the order in which its axes lie in memory, here with the channels last. A click
# on a unit shows what is inside.

# %%
optimized = leptonc.optimize(fn, "O2")
optimized

# %% [markdown]
# The optimized function is a function like any other, so the reference runs it too.

# %%
(after,) = meaning.run(optimized, images[:1])
print(f"largest difference of a score: {(after - scores).abs().max():.1e}")
assert torch.allclose(after, scores, rtol=1e-5, atol=1e-5)
