from tests.runtime.conftest import make_world, template, world

__all__ = ["make_world", "template", "world"]
