from __future__ import annotations

from tidegate.service.batching.client_shares import ClientShares

GREEDY, MODEST = "192.0.2.1", "192.0.2.2"


def test_the_only_active_client_may_use_the_whole_time() -> None:
    shares = ClientShares()
    for now in range(100):
        assert shares.share(GREEDY, 1.0, now) == 1.0
        shares.add(GREEDY, 1.0)


def test_among_several_a_client_above_its_fair_share_may_fill_half_of_its_time() -> None:
    shares = ClientShares()
    shares.add(GREEDY, 10.0)
    shares.share(GREEDY, 0.1, 0.0)

    assert shares.share(MODEST, 0.1, 0.0) == 1.0
    assert shares.share(GREEDY, 0.1, 0.0) == 0.5


def test_a_weight_is_a_larger_share_of_the_work() -> None:
    shares = ClientShares({GREEDY: 3.0, MODEST: 1.0}.__getitem__)
    for client in (GREEDY, MODEST):
        shares.share(client, 0.0, 0.0)
    shares.add(GREEDY, 2.9)
    shares.add(MODEST, 1.0)

    assert shares.part(GREEDY) == 0.75
    assert shares.share(GREEDY, 0.05, 0.0) == 1.0
    assert shares.share(MODEST, 0.05, 0.0) == 0.5
    assert shares.share(GREEDY, 0.5, 0.0) == 0.5


def test_a_weight_that_changes_counts_from_the_next_request() -> None:
    weights = {GREEDY: 1.0, MODEST: 1.0}
    shares = ClientShares(weights.__getitem__)
    for client in (GREEDY, MODEST):
        shares.share(client, 0.0, 0.0)

    weights[GREEDY] = 3.0
    shares.share(GREEDY, 0.0, 1.0)

    assert (shares.part(GREEDY), shares.part(MODEST)) == (0.75, 0.25)
    shares.share(GREEDY, 0.0, 10.5)  # the other one is no longer active
    assert shares.part(GREEDY) == 1.0


def test_a_client_whose_work_is_done_is_not_limited() -> None:
    shares = ClientShares()
    shares.share(MODEST, 0.1, 0.0)
    shares.add(MODEST, 0.5)
    shares.add(GREEDY, 10.0)
    assert shares.share(GREEDY, 0.1, 0.0) == 0.5

    shares.remove(GREEDY, 10.0)

    assert shares.share(GREEDY, 0.1, 0.0) == 1.0


def test_a_client_s_only_request_is_not_limited_even_if_it_is_large() -> None:
    shares = ClientShares()
    for client in range(20):
        shares.share(str(client), 0.01, 0.0)

    assert shares.share(MODEST, 1.2, 0.0) == 1.0
    shares.add(MODEST, 1.2)
    assert shares.share(MODEST, 1.2, 0.0) == 0.5


def test_an_inactive_client_no_longer_counts() -> None:
    shares = ClientShares()
    shares.share(MODEST, 0.1, 0.0)
    shares.add(GREEDY, 10.0)
    assert shares.share(GREEDY, 0.1, 1.0) == 0.5

    assert shares.share(GREEDY, 0.1, 11.5) == 1.0


def test_the_number_of_clients_kept_is_bounded() -> None:
    shares = ClientShares()
    for client in range(5_000):
        shares.share(str(client), 0.1, 0.0)
        shares.add(str(client), 0.1)
        shares.remove(str(client), 0.1)

    assert len(shares._seen) <= 1_000
    assert not shares._outstanding
