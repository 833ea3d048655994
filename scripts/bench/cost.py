"""What speech costs on a machine that is paid by the hour."""

from __future__ import annotations

from typing import Any

HOURS = 1000
"""Of speech, that a cost is for."""


def add_costs(report: dict[str, Any], price: float, currency: str) -> None:
    """Adds the cost of `HOURS` hours of speech to each row of a report, from its throughput.

    Args:
        report: of the scenario ``speed`` or ``batch``.
        price: of the machine, an hour.
        currency: its unit.
    """
    rate = report["model"]["sample_rate"]
    report["price"] = {"an_hour": price, "currency": currency, "hours_of_speech": HOURS}
    for result in report["results"]:
        speed = result["samples_per_second"] if report["scenario"] == "speed" else _of_job(result)
        result["cost"] = price * HOURS * rate / speed if speed else None


def cheapest(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each subject's row with the lowest cost."""
    best: dict[str, dict[str, Any]] = {}
    for result in report["results"]:
        cost = result.get("cost")
        if cost is not None and (result["subject"] not in best or cost < best[result["subject"]]["cost"]):
            best[result["subject"]] = result
    return best


def describe_costs(report: dict[str, Any]) -> list[str]:
    """The lines under a table; none without a price."""
    price = report.get("price")
    if price is None:
        return []
    currency = price["currency"]
    paid = f"at {price['an_hour']:g} {currency} an hour of this machine"
    lines = [f"cost      of {price['hours_of_speech']:,} hours of speech, {paid}"]
    for subject, result in cheapest(report).items():
        batch = f" with batch {result['batch']}" if "batch" in result else ""
        lines.append(f"          {result['cost']:,.2f} {currency} by {subject}{batch}")
    threads, cores = report["threads"], report["machine"]["usable_cores"]
    if report["scenario"] == "speed" and threads < cores:
        lines.append(f"          with threads: {threads} of {cores} cores, and paid for the whole machine")
    return lines


def _of_job(result: dict[str, Any]) -> float:
    return float(result["scheduler"]["samples_per_second"])
