from __future__ import annotations

from tidegate.service.batching.client_shares import ClientShares

GREEDY, MODEST = "192.0.2.1", "192.0.2.2"


def test_a_client_that_is_alone_may_use_everything() -> None:
    shares = ClientShares()
    for now in range(100):
        assert shares.share(GREEDY, 1.0, now) == 1.0
        shares.add(GREEDY, 1.0)


def test_beside_others_a_client_beyond_its_fair_share_may_fill_half_of_its_time() -> None:
    shares = ClientShares()
    shares.add(GREEDY, 10.0)
    shares.share(GREEDY, 0.1, 0.0)

    assert shares.share(MODEST, 0.1, 0.0) == 1.0
    assert shares.share(GREEDY, 0.1, 0.0) == 0.5


def test_when_its_work_is_done_a_client_is_as_any_other() -> None:
    shares = ClientShares()
    shares.share(MODEST, 0.1, 0.0)
    shares.add(MODEST, 0.5)
    shares.add(GREEDY, 10.0)
    assert shares.share(GREEDY, 0.1, 0.0) == 0.5

    shares.remove(GREEDY, 10.0)

    assert shares.share(GREEDY, 0.1, 0.0) == 1.0


def test_the_only_request_of_a_client_is_not_cut_short_however_large() -> None:
    shares = ClientShares()
    for client in range(20):
        shares.share(str(client), 0.01, 0.0)

    assert shares.share(MODEST, 1.2, 0.0) == 1.0
    shares.add(MODEST, 1.2)
    assert shares.share(MODEST, 1.2, 0.0) == 0.5


def test_a_client_that_has_gone_leaves_its_share_to_the_others() -> None:
    shares = ClientShares()
    shares.share(MODEST, 0.1, 0.0)
    shares.add(GREEDY, 10.0)
    assert shares.share(GREEDY, 0.1, 1.0) == 0.5

    assert shares.share(GREEDY, 0.1, 11.5) == 1.0


def test_what_is_remembered_is_bounded() -> None:
    shares = ClientShares()
    for client in range(5_000):
        shares.share(str(client), 0.1, 0.0)
        shares.add(str(client), 0.1)
        shares.remove(str(client), 0.1)

    assert len(shares._seen) <= 1_000
    assert not shares._outstanding
