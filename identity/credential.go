package identity

import (
	"sync"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Credential holds a current X509-SVID and is an x509svid.Source. The zero
// value has none yet. Its methods may be called concurrently.
type Credential struct {
	mu      sync.Mutex // held for a few instructions only
	svid    *x509svid.SVID
	changed chan struct{}
}

// GetX509SVID returns the current SVID, or ErrNoSVID. The caller must not
// change it.
func (c *Credential) GetX509SVID() (*x509svid.SVID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.svid == nil {
		return nil, ErrNoSVID
	}
	return c.svid, nil
}

// Set replaces the SVID; nil takes it away. New handshakes use it at once.
func (c *Credential) Set(svid *x509svid.SVID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.svid = svid
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// Changed returns a channel that is closed at the next Set.
func (c *Credential) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}
