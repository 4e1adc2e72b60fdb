"""Kills, power cuts and failing disks: nothing acknowledged is lost."""
