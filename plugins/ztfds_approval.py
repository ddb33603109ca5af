"""Approval by those who have the right to: which accounts decide about the runs of a DAG is a setting, not a part of the DAG."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.execution_time.hitl import HITLUser


class RightfulApproval(HITLOperator):
    """Waits for the answer of one of the accounts that the Connection ``ztfds_archive`` names for this DAG.

    Its extra holds ``approvers``: names of DAGs with lists of account ids. A DAG that is not named is decided by whoever may trigger it.
    Airflow refuses the answers of others.
    """

    def execute(self, context: Any) -> Any:
        """Look up who may answer, then wait."""
        from airflow.sdk import Connection

        named = (Connection.get("ztfds_archive").extra_dejson.get("approvers") or {}).get(self.dag_id)
        if named:
            self.assigned_users = [HITLUser(id=account, name=account) for account in named]
            self.body = f"{self.body}\n\nMay decide: {', '.join(named)}."
        return super().execute(context)
