"""`/v1/responses` over chat completions: a request on the way in, a reply or its events on the way out.

Nothing is kept between requests: what would need a memory (`previous_response_id`, `conversation`, `background`) is
refused, and every reply says `store: false`.
"""
