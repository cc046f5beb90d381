"""One file a stage: reads artifacts, writes one."""

from tailguard.pipeline.chain import STAGES, run_chain
from tailguard.pipeline.decoder_files import load_decoder
from tailguard.pipeline.quiet import quiet_libraries
from tailguard.pipeline.request import certify_decoder, request_measure
from tailguard.pipeline.stage import Stage, silent

__all__ = [
    "STAGES",
    "Stage",
    "certify_decoder",
    "load_decoder",
    "quiet_libraries",
    "request_measure",
    "run_chain",
    "silent",
]
