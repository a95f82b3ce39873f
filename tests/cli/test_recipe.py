"""``clrfast recipe``."""

from clrfast import Recipe, cli
from clrfast.recipe import _search, _stages


def test_recipe_searches_then_reuses_then_overwrites(own_task, capsys):
    arguments = ["recipe", "own:make_task", "--budget", "464"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    recipe = Recipe.load("recipe.json")
    assert str(recipe) in printed
    assert "written: recipe.json, recipe.html" in printed
    assert f"weight decay: {recipe.weight_decay:g}; {recipe.evidence['weight decay']}" in printed  # as it comes
    report = (own_task / "recipe.html").read_text()
    assert "own:make_task" in report
    assert "data:image/png" in report
    written = (own_task / "recipe.json").stat().st_mtime_ns, (own_task / "recipe.json").read_text()
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "recipe.json: the search continues from these results" in printed
    assert "learning rate: " not in printed
    assert (own_task / "recipe.json").read_text() == written[1]
    assert cli.main([*arguments, "--overwrite", "--seed", "1"]) == 0
    assert "learning rate: " in capsys.readouterr().out
    assert Recipe.load("recipe.json").max_lr != recipe.max_lr


def test_an_interrupted_recipe_names_its_files_and_continues(own_task, monkeypatch, capsys):
    arguments = ["recipe", "own:make_task", "--budget", "464", "--out", "a.json"]
    with monkeypatch.context() as patched:

        def interrupted(**options):
            raise KeyboardInterrupt

        patched.setattr(_stages, "find_weight_decay", interrupted)
        assert cli.main(arguments) == 130
        message = "the results so far are in a.json and a.html; the same command continues from there"
        assert capsys.readouterr().err.endswith(f"clrfast: interrupted: {message}\n")
        assert not Recipe.load("a.json").complete
        assert "It was interrupted" in (own_task / "a.html").read_text()
        patched.setattr(_search, "range_test", interrupted)
        assert cli.main(["recipe", "own:make_task", "--out", "b.json"]) == 130
        assert capsys.readouterr().err.endswith("clrfast: interrupted\n")
        assert not (own_task / "b.json").exists()
    assert cli.main(arguments) == 0
    assert Recipe.load("a.json").complete


def test_overwrite_deletes_only_recipes(own_task, capsys):
    (own_task / "other.json").write_text("{}")
    assert cli.main(["recipe", "own:make_task", "--overwrite", "--out", "other.json"]) == 2
    assert "does not hold a saved recipe" in capsys.readouterr().err
    assert (own_task / "other.json").read_text() == "{}"
