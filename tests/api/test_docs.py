"""What a stranger reads and completes by is what the program knows: man page, shell completion, README."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from conftest import ROOT, cannot_run
from harness.emulator import run

pytestmark = pytest.mark.vm

DOCS = ROOT / "emulator" / "cmd"
BASH = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_orkestr_emulator
printf '%s\\n' "${COMPREPLY[@]}"
"""
# compadd is what a completion ends in; here it prints instead.
ZSH = """
compadd() { [[ $1 == -- ]] && shift; print -l -- $@ }
_files() { print -l -- FILES }
words=("${@[2,-1]}") CURRENT=$(($# - 1)) PREFIX=$words[-1]
source $1
"""


def shown(binary, *words: str) -> str:
    done = run(binary, *words, "--help")
    assert done.returncode == 0, done
    return done.stdout


@pytest.fixture(scope="module")
def texts(binary) -> dict[tuple[str, ...], str]:
    """Each command's help, and its parts': ("template", "build") -> text."""
    found = {}
    for line in shown(binary).split("Examples:")[0].splitlines():
        if match := re.match(r"  ([a-z][a-z-]*) ", line):
            found[(match[1],)] = text = shown(binary, match[1])
            listed = re.findall(r"(?m)^  ([a-z][a-z-]*) ", text) if f"{match[1]} COMMAND" in text else []
            listed += re.findall(rf"(?m)^(?:Usage:|      ) orkestr-emulator {match[1]} ([a-z][a-z-]*)\b", text)
            for part in listed:
                found[(match[1], part)] = shown(binary, match[1], part)
    assert ("serve",) in found and ("template", "build") in found and ("network", "check") in found
    return found


def options(text: str) -> set[str]:
    """Those that a help text explains, or that its usage names."""
    lines = [line for line in text.splitlines() if re.match(r"\s*-|Usage:|       orkestr-emulator ", line)]
    return {name for line in lines for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line.split("   ")[0])}


@pytest.fixture(scope="module")
def man(binary) -> str:
    done = subprocess.run([DOCS / "man" / "man.sh", binary], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


def test_the_man_page_has_every_command_and_option(man, texts):
    plain = man.replace("\\-", "-").replace("\\e", "\\")
    for command, text in texts.items():
        if text != texts[command[:1]] or len(command) == 1:  # else its text is the command's
            assert f'.SS "{" ".join(("orkestr-emulator", *command))}"' in plain
        for option in options(text):
            assert re.search(rf"{option}(?![\w-])", plain), (command, option)


def test_the_man_page_is_well_formed(man):
    if not shutil.which("groff"):
        cannot_run("groff is not here: apt-get install groff")
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-P-cbou"], input=man, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for section in ("NAME", "SYNOPSIS", "COMMANDS", "ENVIRONMENT", "FILES", "SEE ALSO"):
        assert section in done.stdout


@pytest.fixture(params=["bash", "zsh"])
def complete(request, binary):
    """complete(*words) -> what the shell offers for the last of them."""
    if not shutil.which(request.param):
        cannot_run(f"{request.param} is not here: apt-get install {request.param}")
    if request.param == "bash":
        start = ["bash", "-c", BASH, "bash", DOCS / "completion" / "orkestr-emulator.bash"]
    else:
        start = ["zsh", "-f", "-c", ZSH, "zsh", DOCS / "completion" / "_orkestr-emulator"]

    def offered(*words: str) -> list[str]:
        done = subprocess.run([*start, binary, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode in (0, 1) and not done.stderr, done
        return done.stdout.split()

    return offered


def test_completion_offers_every_command(complete, texts):
    assert set(complete("")) >= {command[0] for command in texts}
    for name in {command[0] for command in texts if len(command) == 2}:
        assert set(complete(name, "")) >= {command[1] for command in texts if command[0] == name and len(command) == 2}


def test_completion_offers_every_option(complete, texts):
    for command, text in texts.items():
        offered = complete(*command, "--")
        assert set(offered) >= options(text), command
        assert len(offered) == len(set(offered)), offered


def test_completion_of_what_an_option_wants(complete):
    assert {"fail", "report"} <= set(complete("serve", "--network-errors", ""))
    assert complete("serve", "--api-key", "") == []


def test_the_readme_has_every_option_of_serve(texts):
    readme = (ROOT / "README.md").read_text()
    assert [o for o in sorted(options(texts[("serve",)]) - {"--help"}) if not re.search(rf"{o}(?![\w-])", readme)] == []
