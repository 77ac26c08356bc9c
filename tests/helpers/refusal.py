"""Every error message is one line that names the setting and what to do."""

from contextlib import contextmanager

import pytest

from vqlab.errors import UserError


@contextmanager
def refused(*words):
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
