# %% [markdown]
# # Find a wrong result with bisect
#
# A compiler has many passes, each with many rewrites, and one mistake in one of them makes a
# network wrong. Not by a crash: the answers are just no longer the model's. This notebook puts
# such a mistake into the compiler, looks at the damage, and lets `net.bisect` find it.

# %%
import dataclasses

import matplotlib.pyplot as plt
import torch

import leptonc
from leptonc import demo
from leptonc.passes.rules import ALL_RULES

model, photos = demo.load_model(), demo.load_photos()
example = photos.images[:1]
eager = demo.answers(model, photos)

# %% [markdown]
# ## The mistake
#
# The rule `conv-pad` takes a padding with zeros into the convolution after it. EfficientNet needs
# that: where a convolution skips every other pixel, it pads more below and on the right than
# above and on the left.
#
# Somebody mixes up the two sides, and only for windows of 5 x 5 pixels. Nothing else changes:
# shapes and types stay right, so no check of the program's form can see it.

# %%
RULE = next(r for r in ALL_RULES if r.name == "conv-pad")
RIGHT = RULE.rhs


def mixed_up(m, b):
    """Build the right side, then swap the padding before and after in 5 x 5 convolutions."""
    made = RIGHT(m, b)
    op = b.producer.get(made) if made is not None else None
    if op is None or tuple(op.operands[1].type.shape[2:]) != (5, 5):
        return made
    swapped = dataclasses.replace(op.kind, padding=op.kind.after, padding_after=op.kind.padding)
    b.ops.pop()
    del b.producer[made]
    return b(swapped, *op.operands)


object.__setattr__(RULE, "rhs", mixed_up)  # rules are frozen; the mistake is meant
print(RULE)

# %% [markdown]
# ## What the check says
#
# `compile` compares its result with the model's before it returns. This is what it makes of the
# mistake:

# %%
try:
    checked = leptonc.compile(model, example, cache=False)
    print(checked.report())
except leptonc.LeptoncError as e:
    print(f"{type(e).__name__}: {e}")

# %% [markdown]
# So the mistake would not get through. To see what it does all the same, we turn the check off.

# %%
net = leptonc.compile(model, example, cache=False, verify="off")
wrong = demo.answers(net, photos)
n = len(photos.labels)
for name, answer in (("eager", eager), ("compiled", wrong)):
    print(f"{name:<9} right {answer.top1} of {n}, among the first five {answer.top5} of {n}")

# %% [markdown]
# An image that is off by one pixel here and there is still much the same image. So most answers
# stay as they were, and by luck a wrong one may even become right: counting right answers shows
# no such mistake. But the scores have moved: below, one dot for every score of every photo. On
# the line, compiled and eager agree.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
left.plot(eager.logits.flatten(), wrong.logits.flatten(), ".", markersize=2, color="tab:red")
left.axline((0, 0), slope=1, color="black", linewidth=0.8)
left.set(xlabel="score, eager", ylabel="score, compiled")
moved = (wrong.logits - eager.logits).abs().amax(1) / eager.logits.abs().amax(1)
same = wrong.logits.argmax(1) == eager.logits.argmax(1)
colors = ["tab:gray" if s else "tab:red" for s in same]
right.bar(range(n), 100 * moved, color=colors)
right.set(xlabel="photo (red: another answer)", ylabel="largest change of a score, %")
right.set_xticks(range(n))
right.tick_params(axis="x", labelsize=8)
figure.tight_layout()
plt.show()
print(f"{int((~same).sum())} of {n} photos get another answer")

# %% [markdown]
# ## Who did it?
#
# `bisect` takes inputs on which the results differ. It finds the first pass that makes a right
# program wrong, then the one rewrite of that pass, and cuts the program down until only what is
# needed to see the fault is left.

# %%
worst = int(moved.argmax())
verdict = net.bisect(photos.images[worst : worst + 1])
print(verdict)

# %% [markdown]
# The verdict is also an object with a field for each of these.

# %%
print(f"pass   {verdict.pass_}")
print(f"rule   {verdict.rule}")
print(f"source {verdict.origin}")
assert verdict.rule == RULE.name

# %% [markdown]
# ## A test that fails
#
# `verdict.test` is the text of a test file with that small program and its inputs. It needs
# neither the model nor the photos. A mistake that was found so once is found at once the next
# time.

# %%
for line in verdict.test.splitlines()[:40]:
    print(line if len(line) <= 100 else f"{line[:99]}…")


# %%
def outcome(text):
    """Run a test file's tests; return whether they pass."""
    names = {"__name__": "found"}
    exec(compile(text, "test_found.py", "exec"), names)
    try:
        for name, test in list(names.items()):
            if name.startswith("test_"):
                test()
    except AssertionError:
        return "fails"
    return "passes"


print("with the mistake, the test", outcome(verdict.test))
assert outcome(verdict.test) == "fails"

# %% [markdown]
# ## Repaired
#
# We take the mistake out again. The test passes, and so does everything else.

# %%
object.__setattr__(RULE, "rhs", RIGHT)
print("without it, the test", outcome(verdict.test))
assert outcome(verdict.test) == "passes"

repaired = leptonc.compile(model, example, cache=False)
ours = demo.answers(repaired, photos)
print(f"right again: {ours.top1} of {n}, as eager has ({eager.top1})")
assert torch.equal(ours.logits.argmax(1), eager.logits.argmax(1))

# %% [markdown]
# With a metric of your own (`net.bisect(inputs, metric)`, more is better) bisect judges by that,
# where values are allowed to differ and accuracy is not.
