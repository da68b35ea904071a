from tests.node.harness import *

def test_a_request_travels_to_the_agent_and_back():
    with running_node() as node:
        agent = Agent(node, "ep")
        r = Client(node).get()
        assert r.status == 200
        agent.close()
