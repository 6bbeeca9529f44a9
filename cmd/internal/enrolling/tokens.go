package enrolling

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/sync/singleflight"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

const (
	tokenTimeout = 5 * time.Second // for all issuers together
	maxTokens    = 1024            // kept; a local process chooses its audiences
)

// Tokens gets the JWT-SVIDs of local workloads from the issuers, and keeps each
// for half of its life: after that it is got anew, and what is kept serves only
// while no issuer answers.
type Tokens struct {
	issuers *issuers

	// issue asks an issuer; keys are those that verify tokens at present.
	issue func(ctx context.Context, entry string, id spiffeid.ID, audience []string) (*jwtsvid.SVID, error)
	keys  func() *jwtbundle.Bundle

	flight singleflight.Group
	mu     sync.Mutex // guards kept
	kept   map[string]token
}

// Tokens returns those of this node's workloads. The caller closes them.
func (c *Credentials) Tokens() *Tokens {
	i := &issuers{creds: c}
	return &Tokens{issuers: i, issue: i.newJWTSVID, keys: func() *jwtbundle.Bundle { return c.Now().JWTKeys }}
}

// Close ends the connection to the issuer.
func (t *Tokens) Close() error { return t.issuers.close() }

type token struct {
	svid *jwtsvid.SVID
	keys *jwtbundle.Bundle // when it was issued: another set may not verify it
	due  time.Time         // when it is got anew
}

// Get returns a token of a workload of this node that has not expired, for an entry of an
// audience; or why there is none: spire.ErrUnreachable, where no issuer answers, or what one
// refused.
func (t *Tokens) Get(ctx context.Context, entry string, id spiffeid.ID, audience []string) (*jwtsvid.SVID, error) {
	audience = slices.Compact(slices.Sorted(slices.Values(audience)))
	key := fmt.Sprintf("%q", append([]string{entry, id.String()}, audience...)) // quoted: an audience may hold any byte
	t.mu.Lock()
	have, ok := t.kept[key]
	t.mu.Unlock()
	ok = ok && have.keys.Equal(t.keys())
	if ok && time.Now().Before(have.due) {
		return have.svid, nil
	}
	// Whoever else wants this token waits for the same answer, so no caller's
	// leaving may end it.
	result := t.flight.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		svid, err := t.issue(ctx, entry, id, audience)
		if err == nil {
			t.keep(key, svid)
		}
		return svid, err
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		if r.Err == nil {
			return r.Val.(*jwtsvid.SVID), nil
		}
		if ok && errors.Is(r.Err, spire.ErrUnreachable) && time.Now().Before(have.svid.Expiry) {
			return have.svid, nil
		}
		return nil, r.Err
	}
}

func (t *Tokens) keep(key string, svid *jwtsvid.SVID) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept == nil {
		t.kept = map[string]token{}
	}
	first := ""
	for k, v := range t.kept {
		if !now.Before(v.svid.Expiry) {
			delete(t.kept, k)
		} else if first == "" || v.due.Before(t.kept[first].due) {
			first = k
		}
	}
	if len(t.kept) >= maxTokens {
		delete(t.kept, first)
	}
	t.kept[key] = token{svid: svid, keys: t.keys(), due: now.Add(svid.Expiry.Sub(now) / 2)}
}

// issuers is a connection to one issuer of the region, for calls that cannot
// wait for a handshake with a key in a TPM each time.
type issuers struct {
	creds *Credentials

	mu     sync.Mutex // guards what follows, not held during calls
	client *spire.Client
	as     *x509svid.SVID // what client shows
	addr   string
}

// newJWTSVID asks the issuer that answered last, then the others.
func (i *issuers) newJWTSVID(ctx context.Context, entry string, id spiffeid.ID, audience []string) (*jwtsvid.SVID, error) {
	agent := i.creds.Now().agent
	if agent == nil {
		return nil, fmt.Errorf("%w: this node has no identity to ask with", spire.ErrUnreachable)
	}
	var errs []error
	for _, addr := range i.order() {
		client, err := i.dial(addr, agent)
		if err != nil {
			return nil, err
		}
		svid, err := client.NewJWTSVID(ctx, entry, id, audience)
		if err == nil || !errors.Is(err, spire.ErrUnreachable) {
			return svid, err
		}
		i.hangUp(client)
		errs = append(errs, fmt.Errorf("issuer %s: %w", addr, err))
	}
	return nil, errors.Join(errs...)
}

// order is that of the configuration, whoever answered last first.
func (i *issuers) order() []string {
	all := slices.Clone(i.creds.cfg.Enrol.Issuers)
	i.mu.Lock()
	defer i.mu.Unlock()
	if at := slices.Index(all, i.addr); at > 0 {
		all = slices.Insert(slices.Delete(all, at, at+1), 0, i.addr)
	}
	return all
}

// dial returns the connection held, or a new one in its place.
func (i *issuers) dial(addr string, agent *x509svid.SVID) (*spire.Client, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.client != nil && i.addr == addr && i.as == agent {
		return i.client, nil
	}
	client, err := spire.Dial(i.creds.dialConfig(addr), agent)
	if err != nil {
		return nil, err
	}
	if old := i.client; old != nil {
		time.AfterFunc(tokenTimeout, func() { _ = old.Close() }) // calls may be under way
	}
	i.client, i.as, i.addr = client, agent, addr
	return client, nil
}

// hangUp lets go of a connection that does not work.
func (i *issuers) hangUp(client *spire.Client) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.client == client {
		i.client = nil
	}
	_ = client.Close() // it was broken
}

func (i *issuers) close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.client == nil {
		return nil
	}
	client := i.client
	i.client = nil
	return client.Close()
}
