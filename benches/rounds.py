"""Interleaved rounds: what disturbs the machine for a while disturbs all endpoints alike."""


def interleave(endpoints, count, measure):
    """What `measure` says of each endpoint in each round, by the endpoint's name. Who begins a round takes turns."""
    outcomes = {endpoint.name: [] for endpoint in endpoints}
    for number in range(count):
        first = number % len(endpoints)
        for endpoint in endpoints[first:] + endpoints[:first]:
            outcomes[endpoint.name].append(measure(endpoint))
    return outcomes
