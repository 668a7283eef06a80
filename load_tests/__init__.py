"""Load tests of the service; they use only its HTTP interface and import none of its code."""
