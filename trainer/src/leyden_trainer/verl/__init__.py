"""The verl backend: the same tasks, credit and configuration on verl's own trainer, workers and vLLM servers.

Every import of verl stands in this folder; `test_verl_names.py` lists each name that is touched.
"""
