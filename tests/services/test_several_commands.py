"""Two command services on one PostgreSQL answer as one on SQLite does, whichever is asked."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.services.several import Several, several
from tests.services.test_commands import (  # noqa: F401  # the fixtures and the tests, run here too
    aggregate_id,
    command_id,
    test_a_caller_that_cancels_has_its_command_executed_once_or_not_at_all,
    test_a_command_at_another_version_learns_the_actual_one,
    test_a_command_at_the_expected_version_is_executed,
    test_a_command_id_may_be_another_command_in_another_tenant,
    test_a_command_is_answered_with_the_receipt_of_the_event_that_it_caused,
    test_a_command_sent_after_an_answer_has_a_later_position,
    test_a_hundred_callers_on_one_ship_get_every_version_once,
    test_a_refusal_says_what_is_wrong_and_writes_nothing,
    test_a_rejected_command_leaves_its_command_id_free,
    test_a_rejected_command_leaves_its_command_id_free_for_another_command,
    test_a_retry_gets_the_same_receipt_even_if_the_command_would_be_refused_by_now,
    test_a_retry_under_the_same_command_id_does_nothing_and_gets_the_same_receipt,
    test_a_ship_carries_at_most_1000_kinds_of_item,
    test_many_ships_at_once_do_not_disturb_each_other,
    test_of_50_retries_at_once_one_has_an_effect,
    test_of_different_commands_at_once_under_one_command_id_one_has_an_effect,
    test_of_many_commands_at_one_expected_version_one_wins,
    test_rules_hold_between_callers_that_race,
    test_the_same_command_id_on_another_command_is_refused,
    test_the_same_ids_in_two_tenants_never_meet,
    test_validate_only_does_not_use_up_the_command_id,
    test_validate_only_refuses_what_would_be_refused,
    test_validate_only_sees_what_was_answered_before,
    test_validate_only_shows_the_events_and_records_nothing,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    module_postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Several]:
    async with several(tmp_path_factory.mktemp("several"), module_postgres_url) as deployed:
        yield deployed
