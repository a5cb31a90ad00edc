"""Input protocols: spike trains drawn at random, as many as wanted."""
