# %% [markdown]
# # Write a rule and watch its law being tested
#
# A *rule* replaces one small pattern of operations by another that computes the same. It states
# its *law* in one line and says how exactly the law holds. The tests of a rule are derived from
# it: whoever writes a rule writes no test.
#
# The network of this notebook reads digits. After each convolution it takes `relu`, then the
# largest of each 2 x 2 pixels.

# %%
import sys
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from digits import load_digits, load_net
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import leptonc
from leptonc import meaning
from leptonc.cost.flops import function_cost, op_cost
from leptonc.ir.core import Function
from leptonc.ir.kinds.reduce import AvgPool, MaxPool
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.text import dump
from leptonc.rewrite import Exactness, Node, Rule, Trace, Var, rewrite

sys.path.append(str(Path.cwd().parent / "tests"))  # where the derived tests are
from strategies.arrays import arrays_for
from strategies.instances import instances
from strategies.rule_checks import check_law, firing_instance

model = load_net()
images, labels = load_digits()
fn = leptonc.capture(model, images[:1])


def shown(function: Function) -> None:
    """Print the lines of the two kinds that this notebook is about."""
    for line in dump(function).splitlines():
        if "= relu" in line or "= max_pool" in line:
            print(line)


shown(fn)

# %% [markdown]
# ## A rule
#
# `relu` keeps the order of numbers. So it does not matter whether it comes before the largest one
# is taken or after. But after it there are fewer numbers: a quarter of them.
#
# The left side is a pattern, which is data. The right side is a function that builds the new
# operations from what the pattern caught. `VALUE` says: both sides are equal as numbers, only the
# sign of a zero may differ. The hints name shapes that make sense here; the tests below draw from
# them.

# %%
SHAPES = ("f32[1,1,4]", "f32[2,3,9]", "f32[1,2,5,4]", "f64[2,3,6,7]", "f32[1,2,3,4,5]")
POOL_FIRST = Rule(
    name="pool-before-relu",
    law="max_pool(relu(x)) = relu(max_pool(x))",
    exact=Exactness.VALUE,
    lhs=Node(MaxPool, (Node(Relu, (Var("x"),), once=True),), "pool"),
    rhs=lambda m, b: b(Relu(), b(m.ops["pool"].kind, m["x"])),
    hints={"x": SHAPES},
)
POOL_FIRST

# %% [markdown]
# ## On the network
#
# `rewrite` applies rules until none fires. The trace counts.

# %%
trace = Trace("notebook")
after = rewrite(fn, (POOL_FIRST,), trace)
shown(after)
print(dict(trace.fired))


def relu_elements(function: Function) -> int:
    """Return how many numbers go through relu."""
    return sum(int(op.result.type.numel) for op in function.ops if isinstance(op.kind, Relu))


print(f"numbers through relu: {relu_elements(fn):,} before, {relu_elements(after):,} after")
(want,), (got,) = meaning.run(fn, images[:1]), meaning.run(after, images[:1])
assert torch.equal(want, got)
print("the same scores, bit for bit")

# %% [markdown]
# One image proves little. The same scores on this network could be luck.
#
# ## The law, tested
#
# The pattern is data, so a test can read it: [Hypothesis](https://hypothesis.readthedocs.io)
# draws programs that match the left side, with every kind of window, padding and shape, and
# numbers for them, NaN, infinities and zeros of both signs among them. Here are some of those
# programs.

# %%
QUIET = {
    "database": None,
    "derandomize": True,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}
drawn = []


@settings(max_examples=150, **QUIET)
@given(program=instances(POOL_FIRST))
def draw(program):
    """Keep what is drawn."""
    drawn.append(program)


draw()
for program in drawn[::50]:
    print(dump(program), "\n")
print(f"of {len(drawn)} programs: {len({dump(p) for p in drawn})} different ones")
print("ranks of their inputs:", dict(Counter(p.params[0].type.rank for p in drawn)))

# %% [markdown]
# `check_law` is the test that every rule of leptonc is held to: draw a program and numbers, apply
# the rule, compare both sides as exactly as the rule says. `firing_instance` finds a program that
# the rule changes: a rule that nothing can trigger is dead code.


# %%
def tested(rule: Rule, examples: int = 200) -> bool:
    """Run the two derived tests of a rule; return whether its law holds."""
    runs = Counter()

    @settings(max_examples=examples, phases=[Phase.generate, Phase.shrink], **QUIET)
    @given(data=st.data())
    def law(data: st.DataObject) -> None:
        runs["drawn"] += 1
        check_law(rule, data)

    try:
        law()
    except AssertionError as e:
        print(f"BROKEN  {rule.law}")
        print("\n".join(str(e).splitlines()[:6]))
        print(f"(found and made small in {runs['drawn']} programs)")
        return False
    print(f"holds   {rule.law}   ({runs['drawn']} programs)")
    firing_instance(rule)
    return True


assert tested(POOL_FIRST)

# %% [markdown]
# ## A law that is none
#
# If it works for the largest number, does it work for the mean? It looks just as good:

# %%
MEAN_FIRST = Rule(
    name="mean-before-relu",
    law="avg_pool(relu(x)) = relu(avg_pool(x))",
    exact=Exactness.REASSOC,
    lhs=Node(AvgPool, (Node(Relu, (Var("x"),), once=True),), "pool"),
    rhs=lambda m, b: b(Relu(), b(m.ops["pool"].kind, m["x"])),
    hints={"x": SHAPES},
)
assert not tested(MEAN_FIRST)

# %% [markdown]
# Hypothesis found numbers on which the sides differ, then made program and numbers as small as it
# could. The two tensors above are the left side and the right side. With numbers of both signs in
# one window, the mean of the positive ones is not the positive part of the mean.
#
# The picture shows both rules on many drawn programs: each dot is one, and its height is the
# largest difference between the two sides. Programs with inputs of one size stand side by side.


# %%
def differences(rule: Rule, examples: int = 300) -> list[tuple[int, float]]:
    """Return numbers in the input and largest difference of the sides, for drawn programs."""
    found = []

    @settings(max_examples=examples, phases=[Phase.generate], **QUIET)
    @given(data=st.data())
    def look(data: st.DataObject) -> None:
        before = data.draw(instances(rule))
        args = data.draw(arrays_for(before, special=False))
        changed = rewrite(before, (rule,), Trace("notebook"), max_sweeps=16)
        try:
            (left,), (right,) = meaning.run(before, *args), meaning.run(changed, *args)
        except RuntimeError:  # torch has no such op
            return
        if left.numel() and left.is_floating_point():
            found.append((args[0].numel(), float((left.double() - right.double()).abs().max())))

    look()
    return found


figure, axis = plt.subplots(figsize=(8, 3.6))
for rule, color in ((MEAN_FIRST, "tab:red"), (POOL_FIRST, "tab:green")):
    sizes, errors = zip(*differences(rule), strict=True)
    aside = torch.linspace(0.88, 1.14, len(sizes))[torch.randperm(len(sizes))]
    axis.plot(torch.tensor(sizes) * aside, errors, ".", color=color, alpha=0.5, label=rule.law)
    print(f"{rule.name}: {sum(e > 0 for e in errors)} of {len(errors)} programs differ")
axis.set(xlabel="numbers in the input", ylabel="largest difference", xscale="log")
axis.set_yscale("symlog", linthresh=1e-3)
axis.margins(y=0.1)
axis.legend(loc="center right")
plt.show()

# %% [markdown]
# ## Does it pay?
#
# A true law is not yet a faster program. The rule saves comparisons, but how much is that of all
# the work? And `fuse` computes `relu` inside the convolution before it, where it costs next to
# nothing: behind the pool it is no longer next to a convolution.

# %%
work = function_cost(fn).flops
saved = work - function_cost(after).flops
print(f"work saved: {saved:,} of {work:,} operations ({saved / work:.2%})")
for name, function in (("without the rule", fn), ("with the rule", after)):
    units = leptonc.optimize(function, "O2").ops
    traffic = sum(op_cost(unit).bytes for unit in units)
    print(f"{name:<17} {len(units)} units, which read and write at least {traffic:,} bytes")
    print("  " + ", ".join(unit.kind.name for unit in units))

# %% [markdown]
# So the rule is right, saves little work, and makes more units that move more bytes. Whether it
# pays is for a measurement to say, never for the law. To add a rule to the compiler for good, put
# it into a table in `passes/rules/`; its tests come by themselves.
