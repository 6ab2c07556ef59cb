"""beanstalkd: the hint that an e-mail is due now. MongoDB is the truth, a job only points at it.

What it is for: a worker sleeps until there is work and gets the most urgent first, and of many
workers one gets each job. Asking MongoDB for all of that would cost it most of its time.

What may be lost: everything. A lost job is put anew by the sweeper, from what MongoDB says is due.
A job that comes twice, or early, finds its e-mail claimed or not yet due, and changes nothing. So
nothing here needs to be durable, and ``send()`` does not fail while all servers are away.

``announcer`` is the producer's side and ``tube`` the consumer's; ``replies`` reads what a server
says. Another kind of queue would have to do what these do: announce e-mails, reserve jobs up to a
limit, end them, tell its depth.

``events`` is the one thing that is no hint: jobs of other programs, which are to become e-mails.
They are lost where the server loses them.
"""
