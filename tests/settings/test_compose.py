"""Configs and overrides as users write them, right and wrong, and what comes of them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Annotated, Any, Literal

import hypothesis
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from settings import Registry, Settings, UserError, compose, parse, to_yaml


class Method(Settings):
    """The base of two methods."""

    name: str


METHODS = Registry("method", room="settings", base=Method)


@METHODS.register
class Plain(Method):
    """A method whose keys all have defaults."""

    name: Literal["plain"] = "plain"
    eps: float = Field(1e-5, gt=0)


@METHODS.register
class Steep(Method):
    """A method with a required key."""

    name: Literal["steep"] = "steep"
    lr: float = Field(gt=0)
    inner: Annotated[Method, METHODS.field] = Plain()


class Stage(Settings):
    """An item of a list."""

    from_step: int = Field(ge=0)
    weights: dict[str, float] = Field({})


class Source(Settings):
    """A value of a mapping."""

    path: Path
    language: str = "en"


class Run(Settings):
    """A section."""

    name: str
    steps: int = Field(10, ge=1)
    masked: bool = True
    limit: int | None = None


class Config(Settings):
    """A config with all kinds of fields."""

    run: Run
    optim: Annotated[Method, METHODS.field] = Plain()
    stages: tuple[Stage, ...] = ()
    sources: dict[str, Source] = Field({})
    filters: tuple[Annotated[Method, METHODS.field], ...] = ()
    by_name: dict[str, Annotated[Method, METHODS.field]] = Field({})
    extra: Source | None = None

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.run.limit is not None and self.run.limit < self.run.steps:
            raise ValueError(f"run.limit = {self.run.limit} must be at least run.steps = {self.run.steps}")
        return self


BASE = "run: {name: try}\n"


def read(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return compose(Config, path, overrides)


def refuse(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, text, *overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("run.steps=20", lambda c: c.run.steps, 20),
        ("run.name=a=b", lambda c: c.run.name, "a=b"),
        ("run.name=two words", lambda c: c.run.name, "two words"),
        ("run.name='1e5'", lambda c: c.run.name, "1e5"),
        ("run.masked=false", lambda c: c.run.masked, False),
        ("run.limit=null", lambda c: c.run.limit, None),
        ("optim=plain", lambda c: c.optim, Plain()),
        ("optim={name: steep, lr: 1e-3}", lambda c: c.optim, Steep(lr=1e-3)),
        ("optim.eps=1e-6", lambda c: c.optim, Plain(eps=1e-6)),
        ("stages.1.from_step=7", lambda c: [s.from_step for s in c.stages], [1, 7]),
        ("stages[1].from_step=7", lambda c: [s.from_step for s in c.stages], [1, 7]),
        ("stages=[{from_step: 3}]", lambda c: c.stages, (Stage(from_step=3),)),
        ("stages=[]", lambda c: c.stages, ()),
        ("stages.0.weights={b: 0.5}", lambda c: c.stages[0].weights, {"b": 0.5}),
        ("stages.0.weights.b=0.5", lambda c: c.stages[0].weights, {"a": 1.0, "b": 0.5}),
        ("sources.plays.path=p/${run.name}", lambda c: c.sources["plays"].path, Path("p/try")),
        ("filters=[plain, {name: steep, lr: 2}]", lambda c: c.filters, (Plain(), Steep(lr=2))),
        ("filters.0.eps=0.5", lambda c: c.filters, (Plain(eps=0.5),)),
        ("by_name.x=plain", lambda c: c.by_name, {"x": Plain()}),
        ("extra.path=here", lambda c: c.extra, Source(path=Path("here"))),
    ],
)
def test_overrides(tmp_path: Path, override: str, get: Any, value: object) -> None:
    text = BASE + "optim: plain\nstages: [{from_step: 1, weights: {a: 1}}, {from_step: 2}]\nfilters: [plain]\n"
    assert get(read(tmp_path, text, override)) == value


def test_later_overrides_win_and_see_earlier_ones(tmp_path: Path) -> None:
    config = read(
        tmp_path, BASE, "run.steps=5", "optim={name: steep, lr: 1, inner: plain}", "optim.inner.eps=3", "run.steps=6"
    )
    assert config.run.steps == 6
    assert config.optim == Steep(lr=1, inner=Plain(eps=3))


@pytest.mark.parametrize(
    ("overrides", "get", "value"),
    [
        (["~run.steps"], lambda c: c.run.steps, 10),
        (["run.steps=3", "~run.steps"], lambda c: c.run.steps, 10),
        (["~run.steps", "run.steps=3"], lambda c: c.run.steps, 3),
        (["~run.steps", "~run.limit"], lambda c: (c.run.steps, c.run.limit), (10, None)),
        (["~extra"], lambda c: c.extra, None),
        (["~stages.0"], lambda c: [s.from_step for s in c.stages], [2]),
        (["~stages[1]"], lambda c: [s.from_step for s in c.stages], [1]),
        (["~stages.0.weights.b"], lambda c: c.stages[0].weights, {"a": 1}),
        (["optim.name=plain", "~optim.lr", "~optim.inner"], lambda c: c.optim, Plain()),
        (["~optim.inner", "optim.name=plain", "~optim.lr"], lambda c: c.optim, Plain()),
    ],
)
def test_removed_keys(tmp_path: Path, overrides: list[str], get: Any, value: object) -> None:
    text = (
        "run: {name: try, steps: 20, limit: 30}\noptim: {name: steep, lr: 1, inner: plain}\nextra: {path: x}\n"
        "stages: [{from_step: 1, weights: {a: 1, b: 2}}, {from_step: 2}]\n"
    )
    assert get(read(tmp_path, text, *overrides)) == value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("~run.stepz", 'removes nothing: the config has no key run.stepz; did you mean "steps"?'),
        ("~extra.path", "removes nothing: the config has no key extra.path"),
        ("~stages.0", "removes nothing: the config has no key stages.0"),
        ("~run.name.x", "removes nothing: the config has no key run.name.x"),
        ("~run.name=3", "must have the form ~section.key, without a value"),
        ("~", "must have the form ~section.key, without a value"),
        ("~run..name", "must have the form ~section.key, without a value"),
    ],
)
def test_a_removal_that_fits_no_key_is_refused(tmp_path: Path, override: str, expected: str) -> None:
    message = refuse(tmp_path, "run: {name: try, steps: 20}", override)
    assert message.startswith(f'override "{override}" ')
    assert expected in message
    assert len(message.splitlines()) == 1


def test_a_key_of_the_file_that_another_method_does_not_know_names_the_override_that_removes_it(tmp_path: Path) -> None:
    text = BASE + "optim: {name: steep, lr: 1, inner: plain}"
    lines = refuse(tmp_path, text, "optim.name=plain").splitlines()[1:]
    assert lines == [
        "  optim.lr: unknown key; known are: eps, name; the override '~optim.lr' removes it",
        "  optim.inner: unknown key; known are: eps, name; the override '~optim.inner' removes it",
    ]
    hints = [line.rpartition("override ")[2].partition(" ")[0].strip("'") for line in lines]
    assert read(tmp_path, text, "optim.name=plain", *hints).optim == Plain()
    assert "removes" not in refuse(tmp_path, text, "optim.name=plain", "~optim.lr", "~optim.inner", "optim.epps=1")


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (BASE + "runs: {}", [], 'runs: unknown key; did you mean "run"?'),
        (BASE, ["run.step=3"], 'run.step: unknown key; did you mean "steps"?'),
        (BASE, ["run.zzz=3"], "run.zzz: unknown key; known are: limit, masked, name, steps"),
        (
            BASE,
            ["stages=[{from_step: 1}, {from_stop: 2}]"],
            'stages.1.from_stop: unknown key; did you mean "from_step"?',
        ),
        (
            BASE,
            ["sources.plays={path: x, langage: fr}"],
            'sources.plays.langage: unknown key; did you mean "language"?',
        ),
        (BASE, ["extra={path: x, langage: fr}"], 'extra.langage: unknown key; did you mean "language"?'),
        (BASE, ["optim={name: steep, lrr: 1}"], 'optim.lrr: unknown key; did you mean "lr"?'),
        (BASE, ["filters=[{name: steep, lr: 1, inner: {name: plain, epps: 1}}]"], "filters.0.inner.epps: unknown key"),
        (BASE, ["by_name.x={name: steep, lr: 1, innr: 2}"], 'by_name.x.innr: unknown key; did you mean "inner"?'),
        (BASE, ["optim=steeep"], 'optim = "steeep": no method is called "steeep"; did you mean "steep"?'),
        (BASE, ["optim={lr: 1}"], "optim: needs a `name` that says which method; known are: plain, steep"),
        (BASE, ["optim=3"], "optim = 3: must be one of plain, steep, or a mapping with such a `name`"),
        (BASE, ["optim=steep"], "optim.lr: is required"),
        (BASE + "optim: plain", ["optim.eps=-1"], "optim.eps = -1: must be greater than 0"),
        ("optim: plain", [], "run: is required"),
        ("", [], "run: is required"),
        (BASE, ["run=3"], "run = 3: "),
        (BASE, ["run.steps=many"], 'run.steps = "many": must be a whole number'),
        (BASE, ["run.steps=1.5"], "run.steps = 1.5: must be a whole number"),
        (BASE, ["run.steps=true"], "run.steps = true: must be a number"),
        (BASE, ["run.steps=0"], "run.steps = 0: must be at least 1"),
        (BASE, ["run.name=12"], "run.name = 12: must be text; quote it: '\"12\"'"),
        (BASE, ["run.name=no"], 'so quote the word, such as "no"'),
        (BASE, ["run.name="], "run.name = null: must be text"),
        (BASE + "optim: plain", ["optim.eps=.nan"], "optim.eps = .nan: must be a finite number"),
        (BASE, ["run.limit=5"], "run.limit = 5 must be at least run.steps = 10"),
        (BASE + "1: 2", [], "1 = 1: a key must be text; quote it"),
        (BASE, ["run.name=${run.nme}"], "Interpolation key 'run.nme' not found"),
        (BASE, ["run.name=???"], "Missing mandatory value: name"),
        (
            BASE,
            ["run.steps"],
            'override "run.steps" must have the form section.key=value, or ~section.key to remove a key',
        ),
        (BASE, ["=3"], 'override "=3" must have the form'),
        (BASE, ["run.name=a\udcff"], "is no UTF-8 text; rename the path or convert the text"),
        (BASE, ["run..steps=3"], 'override "run..steps=3" must have the form'),
        (BASE, ["run.name=[1,2"], 'override "run.name=[1,2" cannot be applied: while parsing a flow sequence'),
        (
            BASE + "stages: [{from_step: 1}]",
            ["stages[4].from_step=1"],
            'override "stages[4].from_step=1": the config has no stages.4; stages has 1 item, counted from 0',
        ),
        (BASE, ["stages.0.from_step=1"], "  stages.0: the config has no such item; stages is not given"),
        (BASE + 'stages: {"0": {from_step: 1}}', [], '  stages = {"0": {"from_step": 1}}: must be a list'),
        ("a: [", [], "is not valid YAML: while parsing"),
        ("a: 1\na: 2", [], "is not valid YAML: while constructing a mapping"),
        ("- 1", [], "must hold sections"),
    ],
)
def test_a_mistake_is_named_with_key_value_and_rule(
    tmp_path: Path, text: str, overrides: list[str], expected: str
) -> None:
    message = refuse(tmp_path, text, *overrides)
    assert expected in message
    assert "full_key" not in message
    assert "object_type" not in message


def test_a_mistake_is_blamed_on_the_file_or_on_the_overrides(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    text = "run: {name: a, steps: 0, nam: 1}\nfilters: [plain]\n"
    message = refuse(tmp_path, text, "optim=steep", "filters[0].eps=-1", "run.masked=3")
    assert message.splitlines() == [
        f"{file}:",
        "  run.steps = 0: must be at least 1",
        "  run.nam: unknown key; did you mean \"name\"?; the override '~run.nam' removes it",
        "overrides:",
        "  run.masked = 3: must be true or false",
        "  optim.lr: is required",
        "  filters.0.eps = -1: must be greater than 0",
    ]
    assert refuse(tmp_path, BASE, "~run.name") == "overrides:\n  run.name: is required"
    both = refuse(tmp_path, "run: {name: a, limit: 5}", "run.steps=7")
    assert both == f"{file} with overrides:\n  config: run.limit = 5 must be at least run.steps = 7"


def test_all_mistakes_at_once_a_line_each(tmp_path: Path) -> None:
    message = refuse(tmp_path, "run: {steps: x, nam: y}\noptim: {name: steep, lr: 0}\nstages: [{}]\n")
    assert message.splitlines()[0] == f"{tmp_path / 'config.yaml'}:"
    keys = {line.split(":")[0].split(" =")[0].strip() for line in message.splitlines()[1:]}
    assert keys == {"run.name", "run.steps", "run.nam", "optim.lr", "stages.0.from_step"}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "none.yaml", "does not exist"), (tmp_path, "cannot be read")):
        with pytest.raises(UserError, match=expected):
            compose(Config, path)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"cannot be read|not valid YAML"):
        compose(Config, tmp_path / "binary")


def test_parse_refuses_what_is_no_mapping_and_names_the_source() -> None:
    with pytest.raises(UserError, match=r"x\.json: must hold a mapping of keys to values, not \[1\]"):
        parse(Config, [1], source="x.json")


def test_a_config_is_frozen(tmp_path: Path) -> None:
    config = read(tmp_path, BASE)
    with pytest.raises(ValueError, match="frozen"):
        config.run.steps = 3  # type: ignore[misc]


NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\x85\u2028\u2029"), max_size=12
).filter(
    lambda text: text != "???"  # YAML for "must be given" to OmegaConf
)
CONFIGS = st.builds(
    Config,
    run=st.builds(Run, name=NAMES, steps=st.integers(1, 10**15), masked=st.booleans(), limit=st.none()),
    optim=st.one_of(
        st.builds(Plain, name=st.just("plain"), eps=st.floats(1e-300, 1e300)),
        st.builds(Steep, name=st.just("steep"), lr=st.floats(1e-300, 1e300), inner=st.just(Plain())),
    ),
    stages=st.lists(
        st.builds(Stage, from_step=st.integers(0, 9), weights=st.dictionaries(NAMES, st.floats(0, 1), max_size=2)),
        max_size=2,
    ),
    sources=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_.-]{1,6}", fullmatch=True),
        st.builds(Source, path=st.just(Path("a/b")), language=NAMES),
    ),
    filters=st.just((Plain(), Steep(lr=1.0))),
)


@hypothesis.settings(deadline=None)  # how busy the machine is proves nothing
@given(CONFIGS)
@example(Config(run=Run(name="1e5")))
@example(Config(run=Run(name="${run.steps}")))
@example(Config(run=Run(name="\\${x}\\\\${y}")))
@example(Config(run=Run(name="12:30:45")))
@example(Config(run=Run(name="yes"), sources={"on": Source(path=Path("null"), language="~")}))
def test_to_yaml_reads_back_equal(config: Config) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(to_yaml(config), encoding="utf-8")
        assert compose(Config, path) == config


def test_to_yaml_is_plain_yaml_too() -> None:
    config = Config(run=Run(name="1e5"), optim=Steep(lr=3e-4), sources={"plays": Source(path=Path("x"))})
    assert yaml.safe_load(to_yaml(config)) == config.to_plain()


def test_a_tilde_at_the_beginning_of_a_path_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/here")
    user = pwd.getpwuid(os.getuid())
    config = read(
        tmp_path, BASE + "extra: {path: ~/texts}\nsources: {a: {path: a/~b}}", f"sources.b.path=~{user.pw_name}/x"
    )
    assert config.extra == Source(path=Path("/home/here/texts"))
    assert config.sources == {"a": Source(path=Path("a/~b")), "b": Source(path=Path(user.pw_dir) / "x")}
    assert read(tmp_path, to_yaml(config)) == config
    message = refuse(tmp_path, BASE, "extra.path=~no-such-user/x")
    assert "path = ~no-such-user/x: ~no-such-user has no home folder here" in message
