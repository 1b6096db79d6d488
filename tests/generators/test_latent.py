"""On the way between two places of a latent space: as far out as both ends, in even steps."""

import numpy as np
import torch

from raygen.generators.latent import nearer, slerp

SHARES = torch.linspace(0, 1, 9)


def way(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    return slerp(start.repeat(9, 1), end.repeat(9, 1), SHARES)


def test_an_arc_stays_as_far_out_as_its_ends() -> None:
    start, end = torch.nn.functional.normalize(torch.randn(2, 100, generator=torch.Generator().manual_seed(0)), dim=1) * 10
    places = way(start, end)
    torch.testing.assert_close(places.norm(dim=1), torch.full((9,), 10.0))
    torch.testing.assert_close(places[[0, -1]], torch.stack([start, end]))
    steps = (places[1:] - places[:-1]).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].repeat(8))


def test_a_quarter_of_a_circle() -> None:
    places = way(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]))
    angles = np.linspace(0, np.pi / 2, 9)
    np.testing.assert_allclose(places, 2 * np.stack([np.cos(angles), np.sin(angles)], 1), atol=1e-6)


def test_where_there_is_no_one_arc_it_is_a_line() -> None:
    start = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(way(start, start), start.repeat(9, 1))
    torch.testing.assert_close(way(start, -start)[4], torch.zeros(2))
    assert not way(torch.zeros(2), torch.zeros(2)).isnan().any()


def test_the_class_is_that_of_the_nearer_end() -> None:
    classes = nearer(torch.full((9,), 3), torch.full((9,), 7), SHARES)
    assert classes is not None
    assert classes.tolist() == [3] * 5 + [7] * 4
    assert nearer(None, None, SHARES) is None
