"""The models that IGDMRec is compared with, on the same data, splits and metrics."""
