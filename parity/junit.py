"""Verdicts as a JUnit file, which CI systems show.

Valid for every reader of such files: Apache Ant's schema, which wants the most (a type, a time and a host everywhere,
and no output in a single case), and Jenkins'.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from ..converters.target.whole_files import write_whole
from .result import Result
from .screen import explanation, screen


def write_junit(path: Path, result: Result) -> None:
    """Write a test case a verdict; one that proves nothing is an error, by which a CI system does not let it pass.

    Raises:
        ConvertError: The file cannot be written.
    """
    statuses = [verdict.status for verdict in result.verdicts]
    suite = ElementTree.Element(
        "testsuite",
        name="parity",
        tests=str(len(result.verdicts)),
        failures=str(statuses.count("differs")),
        errors=str(statuses.count("inconclusive")),
        time=f"{sum(result.seconds.values()):.2f}",
        timestamp=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
        hostname="localhost",  # the machine's own name is nobody's business
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in {"model_class": result.model.class_name, **result.model.traits}.items():
        ElementTree.SubElement(properties, "property", name=name, value=_plain(str(value)))
    for verdict in result.verdicts:
        about = _plain("parity." + " ".join(verdict.about))
        case = ElementTree.SubElement(suite, "testcase", classname=about, name=_plain(verdict.check), time="0.00")
        if not verdict.passed:
            measured = f"{verdict.value:.3g}, at most {verdict.bound:.3g}; {verdict.where}; {verdict.note}"
            kind = "failure" if verdict.status == "differs" else "error"
            failure = ElementTree.SubElement(case, kind, type="parity", message=_plain(measured))
            failure.text = _plain("\n".join([measured, *explanation(result)]))
    ElementTree.SubElement(suite, "system-out").text = _plain(screen(result))
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, "unicode")
    write_whole(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode())


def _plain(text: str) -> str:
    """Leave out what XML 1.0 cannot hold, escaped or not."""
    return "".join(
        one for one in text if one in "\t\n" or " " <= one <= "\ud7ff" or "\ue000" <= one <= "\ufffd" or one > "\uffff"
    )
