"""What `ckptd run` does on one node of a job: daemons beside a trainer, and an end that leaves nothing behind.

`nodes` says which node of the job this is, `secrets_of_job` shares what its nodes need to trust each other, `daemons`
says what is started, `job` starts it, watches it and ends it, and `front` is the process that the user sees.
"""
