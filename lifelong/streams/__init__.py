"""Tasks, one after the other, from data sets, tables, images and generators."""
