"""What containers wrote, as one text."""

import pytest

from zun_virt import report

A = b"""\
2026-11-21T07:44:00.000000001Z first
2026-11-21T07:44:00.000000003Z third
"""
B = b"""\
2026-11-21T07:44:00.000000002Z second\r
2026-11-21T07:44:00.000000004Z
"""


@pytest.mark.parametrize(
    ('outputs', 'text'),
    [
        ([], b''),
        ([('a', b'')], b''),
        ([('a', A)], b'a: first\na: third\n'),
        ([('a', A), ('b', B)], b'a: first\nb: second\na: third\nb: \n'),
        # Two of the same name, and a line whose rest comes without a time.
        (
            [('a', A), ('a', b'2026-11-21T07:44:00.000000002Z long\nrest of it\n')],
            b'a: first\na: long\na: rest of it\na: third\n',
        ),
        # What looks like a time and is a container's own word stays.
        ([('a', b'2026-11-21T07:44:00Z 2026-11-21 x\n')], b'a: 2026-11-21 x\n'),
        ([('a', '2026-11-21T07:44:00Z grüß\n'.encode())], 'a: grüß\n'.encode()),
    ],
)
def test_merge(outputs, text):
    assert report.merge(outputs, 10_000) == text


def test_the_last_lines_are_kept_whole():
    assert report.merge([('a', A), ('b', B)], 15) == b'a: third\nb: \n'
