"""One palette for every figure, chosen so that it needs no theme.

Each series colour has a contrast of at least 3:1 against the site's light and dark page (WCAG's bound for graphics),
so a figure drawn once is right in both, in JupyterLab and on Colab. Neighbours differ under the common colour-vision
deficiencies; dashes and markers repeat the distinction for those who see no colour at all.
"""

SERIES = ("#2a78b8", "#c8601c", "#1f8a70", "#a3549f", "#8a7a1f", "#c2455a")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")

LIGHT_PAGE, DARK_PAGE = "#fdfdfb", "#14171c"
NEUTRAL = "#767676"  # text where no theme is known: about 4:1 or more on white and on black alike

SEQUENTIAL = "viridis"  # weights and other values that are never negative
DIVERGING = "RdBu_r"  # signed values, centred at zero


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` in 0 .. 1, as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours in 1 .. 21, as WCAG 2 defines it."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
