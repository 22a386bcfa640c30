"""Flags of the scripts: each once, and values in their range."""

import pytest

from stance.common import flags


def make_parser():
    parser = flags.FlagParser("What the script does.")
    parser.add_argument("--seed", type=flags.seed, default=0)
    parser.add_argument("--rate", type=flags.positive_number)
    parser.add_argument("--name", "-n")
    return parser


@pytest.mark.parametrize("words", [["--seed", "1", "--seed", "2"], ["--seed=1", "--seed", "2"]])
def test_a_repeated_flag_stops(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        make_parser().parse_args(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: --seed is given 2 times: give it once\n"


@pytest.mark.parametrize("value", ["-1", str(1 << 32), "x", "1.5"])
def test_a_seed_out_of_range_stops(capsys, value):
    with pytest.raises(SystemExit) as stopped:
        make_parser().parse_args([f"--seed={value}"])
    assert stopped.value.code == 2 and "--seed" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_a_number_that_is_not_above_0_stops(capsys, value):
    with pytest.raises(SystemExit) as stopped:
        make_parser().parse_args([f"--rate={value}"])
    assert stopped.value.code == 2 and "--rate" in capsys.readouterr().err


def test_values_are_parsed():
    found = make_parser().parse_args(
        ["--seed", str((1 << 32) - 1), "--rate", "1e-4", "-n", "--x"[2:]]
    )
    assert (found.seed, found.rate, found.name) == ((1 << 32) - 1, 1e-4, "x")
