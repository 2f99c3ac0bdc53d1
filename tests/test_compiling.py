"""Loops are compiled wherever they are installed."""

from physlm import compiling


def test_code_is_compiled_where_nothing_can_be_written(monkeypatch):
    asked = []

    def refuse_to_keep(function=None, **options):
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'double': no locator available")
        return lambda x: ("compiled", function(x))

    def decorator(function=None, **options):
        if function is None:
            return lambda f: refuse_to_keep(f, **options)
        return refuse_to_keep(function, **options)

    monkeypatch.setattr(compiling.numba, "njit", decorator)
    assert compiling.compiled(lambda x: 2 * x)(21) == ("compiled", 42)
    assert asked == [{"cache": True, "error_model": "python"}, {"error_model": "python"}]
