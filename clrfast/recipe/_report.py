"""The report on a search: one HTML page with everything inside, for a person to read and to keep."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ..finder import LRCurve
from ..finder._suggest import NoSuggestionError
from ._memory import in_words
from ._short_runs import ShortRuns

if TYPE_CHECKING:
    from ._recipe import Recipe

# Nothing may be fetched, whatever a text holds that slipped through: pictures are in the page itself.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

DPI = 120
"""Of the pictures: 768 pixels wide, enough for a phone's screen and for 40rem on a laptop's."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 0.5rem; }
h1 { margin-top: 0.5rem; }
figure { margin: 1rem 0; }
img { width: 100%; max-width: 40rem; height: auto; background: white; }
figcaption, .note { font-size: 0.9rem; opacity: 0.8; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.25rem 0.75rem; border-bottom: 1px solid #8886; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0.25rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; }
dd b { font-size: 1.15rem; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid #8886; border-radius: 0.25rem; overflow-wrap: normal; }
.warnings { border-left: 0.25rem solid #D55E00; padding-left: 1rem; }
@media (max-width: 32rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.75rem; }
  table, pre { font-size: 0.85rem; }
  th, td { padding: 0.25rem 0.4rem; }
}
"""


def html(recipe: Recipe, title: str = "", saved: str = "recipe.json") -> str:
    """The page: what was chosen and why, what was tried, with pictures where matplotlib is installed, and what to do
    next.

    Args:
        recipe: what to report on.
        title: of the task; any text.
        saved: where the recipe's JSON lies, for the code to paste.
    Returns:
        HTML that refers to nothing outside of it.
    """
    heading = f"Training recipe: {title}" if title else "Training recipe"
    sections = [_summary(recipe), _warnings(recipe), _rates(recipe), _batch_sizes(recipe)]
    sections += [
        _pairs(recipe) or _short_runs("Weight decay", "weight decay", recipe.parts.weight_decays, recipe),
        _short_runs("Momentum", "momentum", recipe.parts.momenta, recipe),
        _schedule(recipe),
        _next_steps(recipe, saved),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(heading)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>",
            f"<h1>{escape(heading)}</h1>",
            *(section for section in sections if section),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _summary(recipe: Recipe) -> str:
    entries = "\n".join(
        f"<dt>{escape(name)}</dt><dd><b>{escape(value)}</b><br>{escape(recipe.evidence[name])}</dd>"
        for name, value in recipe.settings.items()
    )
    parts = recipe.parts
    ended = "" if recipe.complete else " It was interrupted: the same call goes on from there."
    told = (
        f"Found in {recipe.steps} of at most {parts.budget} training steps, for a training of about "
        f"{parts.planned_steps}, on {parts.model}.{ended}"
    )
    return f"<p>{escape(told)}</p>\n<h2>What was chosen, and why</h2>\n<dl>\n{entries}\n</dl>"


def _warnings(recipe: Recipe) -> str:
    if not recipe.warnings:
        return ""
    return f'<section class="warnings">\n<h2>To look at first</h2>\n{_list(recipe.warnings)}\n</section>'


def _rates(recipe: Recipe) -> str:
    parts = recipe.parts
    named = (
        ("the task as it was given", parts.rate),
        ("the chosen batch size", parts.rate_after_batch_size),
        ("the chosen weight decay", parts.rate_after_weight_decay),
    )
    shown = "\n".join(_rate(of, curve) for of, curve in named if curve is not None)
    told = (
        "The model was trained for a while with a rising learning rate. Where the loss falls the rate is useful, and "
        "where it climbs for good the training has become unstable; the rate to train with lies well below that."
    )
    return f"<h2>Learning rate</h2>\n<p>{escape(told)}</p>\n{shown}"


def _rate(of: str, curve: LRCurve) -> str:
    try:
        found = curve.suggest()
        told = f"suggested: {found.max_lr:.3g} ({found.low:.2g} to {found.high:.2g}): {found.reason}"
    except NoSuggestionError as error:
        found, told = None, f"no answer: {error}"
    caption = f"Range test with {of}: {curve.stop_reason}"
    return _figure(caption, lambda: curve.plot(suggestion=found).figure) + f"\n<p>{escape(told)}</p>"


def _batch_sizes(recipe: Recipe) -> str:
    sizes = recipe.parts.batch_sizes
    if sizes is None:
        return ""
    rows = [
        (str(c.batch_size), f"{c.samples_per_second:.4g}", f"{1000 * c.seconds:.4g}", in_words(c.peak_bytes))
        for c in sizes.costs
    ]
    table = _table(("batch size", "samples / s", "ms a step", "memory"), rows)
    return f"<h2>Batch size</h2>\n<p>{escape(recipe.evidence['batch size'])}</p>\n{table}"


def _pairs(recipe: Recipe) -> str:
    found = recipe.parts.pairs
    if found is None:
        return ""
    rows = [(f"{lr:.3g}", f"{decay:g}", f"{loss:.4g}") for lr, decay, loss in found.table()]
    table = _table(("rate", "weight decay", "loss after"), rows)
    told = (
        f"1cycles of {found.steps} steps, all from the same start and on the same batches, judged by the validation "
        "loss after them, in the order in which they were made: each where those before it let expect the most."
    )
    caption = "The runs, and the loss that they let expect around them: the darker, the lower"
    picture = _figure(caption, lambda: found.plot().figure)
    evidence = f"<p>{escape(recipe.evidence['weight decay'])}</p>"
    return f"<h2>Rate and weight decay</h2>\n<p>{escape(told)}</p>\n{picture}\n{table}\n{evidence}{_clues(recipe)}"


def _short_runs(heading: str, name: str, found: ShortRuns | None, recipe: Recipe) -> str:
    if found is None:
        return f"<h2>{heading}</h2>\n<p>{escape(recipe.evidence[name])}</p>"
    rows = [
        (f"{value:g}", f"{loss:.4g}", f"{lowest:.4g}", f"{step:.0f}", f"{lr:.3g}")
        for value, loss, lowest, step, lr in found.table()
    ]
    table = _table((name, "loss after", "lowest", "at step", "rate borne"), rows)
    runs = found.runs[0]
    told = (
        f"Short 1cycles up to {found.max_lr:.3g}, {len(runs)} for each value, all from the same start and on the same "
        "batches, judged by the validation loss after them. The rate borne is the one up to which that loss had not "
        "yet climbed by much."
    )
    picture = _figure(f"Validation loss of the short runs, by {name}", lambda: _drawn(found, name))
    return f"<h2>{heading}</h2>\n<p>{escape(told)}</p>\n{picture}\n{table}\n<p>{escape(recipe.evidence[name])}</p>" + (
        _clues(recipe) if found is recipe.parts.weight_decays else ""
    )


def _drawn(found: ShortRuns, name: str) -> Any:
    from ..plot import short_runs

    return short_runs(found, title=name).figure


def _clues(recipe: Recipe) -> str:
    if not recipe.clues:
        return ""
    clues = [f"{clue.name}: {clue.evidence}; {clue.advice}" for clue in recipe.clues]
    return f"\n<p>What the run with the chosen value tells:</p>\n{_list(clues)}"


def _schedule(recipe: Recipe) -> str:
    steps = recipe.parts.planned_steps
    figure = _figure(f"The 1cycle over {steps} steps", lambda: recipe.schedule(steps).plot())
    return f"<h2>The schedule</h2>\n{figure}" if figure else ""


def _next_steps(recipe: Recipe, saved: str) -> str:
    numbers = (
        f"schedule = clrfast.one_cycle({recipe.max_lr:.3g}, total_steps, momentum={recipe.momentum}, "
        f"weight_decay={recipe.weight_decay:g})\n"
        "optimizer = clrfast.SGD(model.parameters(), schedule=schedule)"
    )
    code = (
        "import clrfast\n\n"
        f"recipe = clrfast.Recipe.load({saved!r})\n"
        "total_steps = epochs * len(train_loader)\n"
        "optimizer = recipe.optimizer(model, total_steps)\n\n"
        "for epoch in range(epochs):\n"
        "    for inputs, targets in train_loader:\n"
        "        optimizer.zero_grad()\n"
        "        loss = loss_fn(model(inputs), targets)\n"
        "        loss.backward()\n"
        "        optimizer.step(loss=loss)  # no scheduler.step()"
    )
    batch = "" if recipe.batch_size is None else f"Give the training's loader batches of {recipe.batch_size}. "
    after = [
        "Train with the code above, and keep the validation losses.",
        "Read them with clrfast.diagnose(clrfast.History(train_losses, val_losses)): it tells underfitting from "
        "overfitting, and what to change.",
        "What regularises (dropout, augmentation) adds to the weight decay: after a change of it, search anew.",
    ]
    if recipe.warnings:
        after.insert(0, "Read what stands under “To look at first”.")
    return (
        f"<h2>Next steps</h2>\n<p>{escape(batch)}Then:</p>\n<pre><code>{escape(code)}</code></pre>\n"
        f"<p>Or, without the file:</p>\n<pre><code>{escape(numbers)}</code></pre>\n{_list(after)}"
    )


def _list(texts: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(text)}</li>" for text in texts) + "\n</ul>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _figure(caption: str, draw: Callable[[], Any]) -> str:
    """The picture inside the page; a note without matplotlib."""
    text = escape(caption)
    try:
        picture = io.BytesIO()
        draw().savefig(picture, format="png", dpi=DPI)
    except ModuleNotFoundError as error:
        return f'<p class="note">{text} (no picture: {escape(str(error.name))} is not installed)</p>'
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}">\n<figcaption>{text}</figcaption></figure>'
