package edge

import "net/http"

// HTTP is the client's own, for tests that ask for something else.
func (c *Client) HTTP() *http.Client { return c.http }
