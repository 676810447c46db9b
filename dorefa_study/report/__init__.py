"""The report of a sweep: one self-contained page, and a page for each trial beside it."""

from dorefa_study.report.command import main as main
from dorefa_study.report.commands_of_trials import trial_command as trial_command
from dorefa_study.report.curves import seconds_of_training as seconds_of_training
from dorefa_study.report.page import write_report as write_report
