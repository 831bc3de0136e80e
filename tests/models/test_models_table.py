"""The table of docs/models.md is the one that the tests' networks give."""

import re

import pytest

from tests.models import models_table, pipelines_table

CURE = "Write it again: python -m tests.models.models_table"


@pytest.fixture(scope="module")
def page():
    return models_table.PAGE.read_text("utf-8")


def test_the_table_is_up_to_date_but_for_the_digits_measured(page):
    table = page.partition(models_table.BEGIN)[2].partition(models_table.END)[0]
    shown = re.findall(r"\| (\d(?:\.\d+)?e-\d+) \|$", table, re.MULTILINE)
    assert len(shown) == len(models_table.LINES), CURE
    assert max(map(float, shown)) < 2e-3, CURE
    sines = dict(zip(models_table.LINES, map(float, shown), strict=True))
    assert models_table.replaced(page, models_table.table(sines)) == page, CURE


def test_a_sine_measured_now_is_as_small():
    assert 0 < models_table.measured("DiTTransformer2DModel") < 2e-3


def test_the_table_of_pipelines_is_up_to_date_but_for_the_digits_measured(page):
    table = page.partition(pipelines_table.BEGIN)[2].partition(models_table.END)[0]
    shown = re.findall(r"\| (\d(?:\.\d+)?e-\d+) \|$", table, re.MULTILINE)
    cure = "Write it again: python -m tests.models.pipelines_table"
    assert max(map(float, shown)) < 2e-3, cure
    new = pipelines_table.table(shown)
    assert models_table.replaced(page, new, pipelines_table.BEGIN) == page, cure
