"""Plan and options of the XDP program, from rules and settings.

Runs in the supervisor, and in the commands that try or measure the program.
"""

from __future__ import annotations

from sensor.capture.plan_maps import KernelPlan
from sensor.capture.program import ProgramOptions
from sensor.config.settings import Keep, Settings
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.plan import Plan
from sensor.rules.prefilter.tables import kernel_plan


def plan_of(rules_plan: KernelPlan, http: HttpReading, keep: Keep) -> KernelPlan:
    """Return the plan of the rules; if flows are kept, a plan that passes every payload."""
    return kernel_plan(Plan.pass_all(), http) if keep == "flow" else rules_plan


def options_of(
    settings: Settings, *, frags: bool, raw_ip: bool = False, history: bool = False
) -> ProgramOptions:
    """Return the options that settings imply.

    ``frags``: a frame may be spread over several buffers; ``raw_ip``: frames have no link header;
    ``history``: the kernel remembers recent frames.
    """
    profile = PROFILES[settings.profile]
    return ProgramOptions(
        snaplen=settings.snaplen,
        action=settings.action,
        flows=settings.flows,
        depth=profile.depth,
        http_at_any_depth=profile.http_at_any_depth,
        longest=profile.longest,
        flow_has_tos=profile.flow_has_tos,
        idle_s=profile.idle_s,
        life_s=profile.life_s,
        include=settings.networks_include,
        exclude=settings.networks_exclude,
        multi_buffer=frags,
        raw_ip=raw_ip,
        history_mib=settings.history_mib if history else 0,
        history_flow_kib=settings.history_flow_kib,
    )
