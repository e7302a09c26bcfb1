"""One line of what the linter says, and the codes that it uses."""

from __future__ import annotations

from dataclasses import dataclass

from leaderboard.render.tables import clean

CODES = {
    "form": "The file is not of the format that its ending says, or holds no table.",
    "columns": "A column of the format is missing, or there twice; or the header is another.",
    "cell": "A cell is not of its column's kind: a number, a whole number, a text, yes or no.",
    "footnote": "A footnote is not the one that follows.",
    "mixed-key": "Rows of one table were made under different settings (board's key, budget).",
    "mixed-test-set": "Rows of one table were measured on test sets of different size.",
    "mixed-dense": "Rows of one table have dense networks of different cost, or a row that keeps every unit another.",
    "mixed-track": "A row of another track is in a table (native, widths of another run, training cost).",
    "mixed-epochs": "A ranked row was trained for another number of epochs than the others.",
    "duplicate": "One row is there twice.",
    "counts": "Counts of wrong images cannot be read, are negative, or name a seed twice.",
    "wrong-images": "More test images are wrong than there are.",
    "seeds": "The number of seeds is not that of the finished runs.",
    "outcome": "What is said of unfinished runs is not what the counts say.",
    "accuracy-range": "An accuracy is below 0 or above 100 %.",
    "accuracy-image": "An accuracy is no mean of whole test images.",
    "mean": "The mean accuracy is not that of the counts, or the mean loss not that of the losses.",
    "interval": "An interval is not that of the counts.",
    "interval-alone": "An interval without its mean, or with one end.",
    "difference": "A difference, or the seeds that a row won, is not that of the two rows.",
    "p": "A p-value, the seeds it is of, or the smallest difference that is found, is not that of the counts.",
    "verdict": "A verdict is not what the counts say.",
    "curve": "What JSON says over all budgets is not what its tables say.",
    "clear": "A significant difference is not marked so, or one that is not significant is.",
    "failed-mean": "A row with a failed run has a mean: the seed was left out because of its result.",
    "claimed": "A row has an accuracy and no counts: a published number among measured ones.",
    "negative": "A quantity that cannot be negative is.",
    "above-dense": "More MACs or params than the dense network.",
    "above-budget": "More MACs or params than the budget allows.",
    "below-budget": "A ranked row lies more than 0.5 % of the dense cost below its budget.",
    "percent": "A percentage is not that of the two numbers it is made of.",
    "cost": "A training cost is not the ratio to that of dense.",
    "speed-mean": "A speed-up is not dense over final time.",
    "speed-interval": "A speed-up lies outside its own interval.",
    "speed-claim": "Called faster though its interval does not lie above 1.03; or not, though it does.",
    "rank": "A rank is not 1 and the rows that are significantly better, to all rows less those that are worse.",
    "tie-group": "Letters are not those of the rows without a significant difference.",
    "seeds-needed": "The seeds needed are not what the counts say.",
    "rank-not-allowed": "A row has a rank that it may not have: too few seeds, failed or missing runs, no budget.",
    "no-rank": "A row has neither a rank nor a reason for having none.",
    "order": "Rows are not in the order of their ranks or, where all units are kept, training MACs; dense first.",
    "control": "A compulsory control is missing and not marked so, or marked and there.",
    "record-table": "A table, or a line about it, is not what the records or the exact table say.",
    "record-row": "A row is not one of the records or of the exact table, or is missing.",
    "record-cell": "A cell is not what the records or the exact table say.",
}
"""What can be wrong, by code."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a table.

    Attributes:
        file: as it was given.
        line: from 1; 0 where a row has no line of its own.
        row: name of the row; empty for a finding about the table or the file.
        column: header or field; empty where no single one is wrong.
        code: one of ``CODES``.
        message: what is there and what should be.
    """

    file: str
    line: int
    row: str
    column: str
    code: str
    message: str

    def __str__(self) -> str:
        """One line for a terminal, whatever the file holds."""
        place = ":".join([self.file, *([str(self.line)] if self.line else [])])
        return clean(
            ": ".join(part for part in (place, self.row, self.column, f"{self.message} [{self.code}]") if part)
        )
