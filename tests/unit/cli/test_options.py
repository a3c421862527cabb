from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from core.cli.app import cli
from core.cli.asking import MAX_PIPED_BYTES, AnswerOptions, answer_options, read_prompt
from core.errors import ConfigError
from core.loop.config import LoopConfig
from skills import skills_pb2


def parse(*arguments: str) -> AnswerOptions:
    taken: list[AnswerOptions] = []

    @click.command()
    @answer_options(temperature="x")
    def command(**parameters: Any) -> None:
        taken.append(AnswerOptions.take(parameters))
        assert not parameters

    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return taken[0]


def test_what_is_not_given_is_left_to_the_skill() -> None:
    request = parse().request()
    assert request == skills_pb2.GenReq(lookup=True)


def test_every_option_reaches_the_request(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    request = parse(
        *("--max-tokens", "7", "--temperature", "0", "--top-p", "0.5", "--top-k", "0", "--min-p", "0"),
        *(
            "--repeat-penalty",
            "1.1",
            "--presence-penalty",
            "0.5",
            "--frequency-penalty",
            "-0.5",
            "--seed",
            "4294967295",
        ),
        *("--stop", r"\n", "--stop", "END", "--system", "Be brief.", "--json-schema", str(schema)),
        *("--close-json", "9", "--allow-weaker-schema", "--priority", "batch", "--no-lookup"),
    ).request()
    assert request.HasField("temperature")
    assert request.HasField("top_k")
    assert request.HasField("lookup")
    assert not request.lookup
    assert (request.max_tokens, request.top_k, request.seed) == (7, 0, 2**32 - 1)
    assert request.top_p == pytest.approx(0.5)
    assert request.frequency_penalty == pytest.approx(-0.5)
    assert (list(request.stop), request.system) == (["\n", "END"], "Be brief.")
    assert request.json_schema == '{"type": "object"}'
    assert (request.close_json, request.allow_weaker_schema) == (9, True)
    assert request.priority == skills_pb2.PRIORITY_BATCH


def test_every_option_is_a_setting_of_the_loop() -> None:
    options = parse("--max-tokens", "7", "--temperature", "0.5", "--top-p", "0.5", "--seed", "0", "--stop", "a")
    config = LoopConfig(**options.settings())
    assert (config.max_tokens, config.temperature, config.top_p, config.seed) == (7, 0.5, 0.5, 0)
    assert (config.stop, config.batch, config.lookup) == (("a",), False, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["draft", "--max-tokens", "0", "x"],
        ["draft", "--max-tokens", "99999999999", "x"],
        ["draft", "--seed", "-1", "x"],
        ["draft", "--seed", str(2**32), "x"],
        ["draft", "--timeout", "nan", "x"],
        ["draft", "--timeout", "0", "x"],
        ["draft", "--time-budget", "-1", "x"],
        ["draft", "--time-budget", "1e9", "x"],
        ["draft", "--candidates", "9", "x"],
        ["draft", "--temperature", "hot", "x"],
        ["draft", "--grammar", "/nowhere", "x"],
        ["draft", "--json-schema", "/nowhere", "x"],
        ["draft", "--close-json", "-1", "x"],
        ["loop", "--max-iterations", "4", "x"],
        ["loop", "--language", "fr", "x"],
        ["health", "--interval", "0"],
        ["completion", "tcsh"],
        ["frobnicate"],
        ["draft", "--frobnicate"],
        ["draft"],
        ["loop"],
        ["draft", "  "],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert not result.stdout
    assert "Error:" in result.stderr


def test_schema_may_be_given_as_text() -> None:
    assert parse("--json-schema", ' {"a": 1}').request().json_schema == ' {"a": 1}'


def test_further_constraints_reach_the_request() -> None:
    assert parse("--regex", "(a|b)").request().regex == "(a|b)"
    assert json.loads(parse("--json-object").request().json_schema) == {"type": "object"}


CONSTRAINTS = {"--grammar": [__file__], "--json-schema": ["{}"], "--regex": ["a"], "--json-object": []}


@pytest.mark.parametrize("names", list(itertools.combinations(CONSTRAINTS, 2)))
def test_constraints_exclude_each_other(names: tuple[str, str]) -> None:
    arguments = [word for name in names for word in (name, *CONSTRAINTS[name])]
    result = CliRunner().invoke(cli, ["draft", *arguments, "x"])
    assert result.exit_code == 2
    assert "not both" in result.stderr
    assert all(name in result.stderr for name in names)


def prompt_of(arguments: list[str], piped: bytes = b"") -> str:
    """Return the prompt that `read_prompt` reads, or its error."""
    taken: list[str] = []

    @click.command()
    @click.argument("words", nargs=-1)
    def command(words: tuple[str, ...]) -> None:
        taken.append(read_prompt(words))

    result = CliRunner().invoke(command, arguments, input=piped)
    return taken[0] if taken else result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "piped", "prompt"),
    [
        (["a"], b"", "a"),
        (["a", "b"], b"", "a b"),
        ([], b"text\n", "text"),
        (["-"], b"text\n", "text"),
        (["Summarise this"], b"text\n", "text\n\nSummarise this"),
        (["Summarise", "-"], b"text", "text\n\nSummarise"),
        (["a"], b" \n", "a"),
        ([], "ñ€\n".encode(), "ñ€"),
        ([], b"", "Error: there is no prompt: give it as an argument, or pipe it in"),
        ([], b"\xef\xbb\xbftext", "text"),
        ([], "ñ\xff".encode("latin-1"), "Error: standard input is not valid UTF-8 (byte 0, in '\\udcf1\\udcff')"),
    ],
)
def test_piped_text_goes_before_the_argument(arguments: list[str], piped: bytes, prompt: str) -> None:
    assert prompt_of(arguments, piped) == prompt


def test_piped_text_has_a_limit() -> None:
    assert "longer than" in prompt_of([], b"x" * (MAX_PIPED_BYTES + 1))
    assert len(prompt_of([], b"x" * MAX_PIPED_BYTES)) == MAX_PIPED_BYTES


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["draft", "caf\udce9"], "PROMPT"),
        (["loop", "ok", "caf\udce9"], "PROMPT"),
        (["draft", "--system", "caf\udce9", "x"], "--system"),
        (["chat", "--system", "caf\udce9"], "--system"),
        (["draft", "--stop", "ok", "--stop", "caf\udce9", "x"], "--stop"),
        (["loop", "--stop", "caf\udce9", "x"], "--stop"),
        (["draft", "--skill", "caf\udce9", "x"], "--skill"),
        (["draft", "--target", "caf\udce9", "x"], "--target"),
        (["health", "--target", "caf\udce9"], "--target"),
        (["health", "caf\udce9"], "SKILL"),
        (["serve", "--listen", "caf\udce9"], "--listen"),
    ],
)
def test_text_that_is_no_utf_8_is_2_and_named(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {named} is not valid UTF-8 (byte 3, in 'caf\\udce9')"


def test_byte_that_is_no_utf_8_is_counted_from_0_in_bytes() -> None:
    result = CliRunner().invoke(cli, ["draft", "--system", "ñandú \udcff", "x"])
    assert "(byte 8, " in result.stderr


@pytest.mark.parametrize("variable", ["SARAI_SYSTEM", "SARAI_DRAFT_TARGET"])
def test_variable_that_is_no_utf_8_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "caf\udce9:1")
    result = CliRunner().invoke(cli, ["draft", "x"])
    told = str(result.exception) if isinstance(result.exception, ConfigError) else result.stderr
    assert f"{variable} is not valid UTF-8 (byte 3" in told


@pytest.mark.parametrize("option", ["--grammar", "--json-schema"])
def test_file_may_have_a_byte_order_mark_but_must_be_utf_8(tmp_path: Path, option: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b'\xef\xbb\xbfroot ::= "\xc3\xb1"')
    request = parse(option, str(file)).request()
    assert request.grammar + request.json_schema == 'root ::= "ñ"'
    file.write_bytes(b"root \xff")
    result = CliRunner().invoke(cli, ["draft", option, str(file), "x"])
    assert result.exit_code == 2
    assert f"{file} is not valid UTF-8 (byte 5, " in result.stderr


def test_file_may_have_any_name(tmp_path: Path) -> None:
    file = tmp_path / "caf\udce9"
    file.write_text("{}")
    assert parse("--json-schema", str(file)).json_schema == "{}"


COMMANDS = sorted(cli.commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_understands_the_common_options(command: str) -> None:
    names = {name for parameter in cli.commands[command].params for name in parameter.opts}
    assert {"--json", "--stats", "-q", "-v", "--log-level", "--debug"} <= names


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_examples(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert f"sarai {command}" in result.stdout.partition("Examples:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_variable_that_is_read(command: str) -> None:
    text = " ".join(CliRunner().invoke(cli, [command, "--help"]).stdout.split())
    variables = [str(parameter.envvar) for parameter in cli.commands[command].params if parameter.envvar]
    assert "SARAI_LOG_LEVEL" in variables
    for variable in variables:
        assert variable in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_a_shell(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert "_SARAI_COMPLETE" in result.stdout
    as_json = CliRunner().invoke(cli, ["completion", "--json", shell])
    assert json.loads(as_json.stdout) == {"shell": shell, "script": result.stdout.removesuffix("\n")}


def test_version_is_shown() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("sarai ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--on", "compose", "--listen", "127.0.0.1:99999"), "'127.0.0.1:99999' is not HOST:PORT"),
        (("--serve", "here", "--target", "a:1"), "'here' is not HOST:PORT"),
        (("--serve", "0.0.0.0:1", "--target", "a:1", "--metrics", "zzz"), "'zzz' is not HOST:PORT"),
        (("--listen", "127.0.0.1:50050"), "--listen goes with --on compose"),
        (("--metrics", "127.0.0.1:1"), "go with --serve"),
        (("--min", "3", "--max", "2"), "--min 3 is more than the"),
    ],
)
def test_an_autoscaler_refuses_what_it_cannot_do(arguments: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(cli, ["autoscale", *arguments])
    assert result.exit_code != 0
    assert says in str(result.output) + str(result.exception)
