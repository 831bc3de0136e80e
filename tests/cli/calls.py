"""How the tests call commands, and what an error must look like."""

#: Options of `pullback basis` that make it fast.
QUICK = ("--samples", "2", "--rank", "3", "--quality", "draft")


def refused(result, code, *words):
    """An error: its exit code, one paragraph on stderr with these words, nothing on stdout."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    message = " ".join(result.stderr.replace("│", " ").split())
    for word in words:
        assert word in message
    return message
