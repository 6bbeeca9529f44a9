package replica

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// counted is how many bytes went, and in what pieces.
type counted struct{ bytes, largest int }

func (c *counted) Write(b []byte) (int, error) {
	c.bytes += len(b)
	c.largest = max(c.largest, len(b))
	return len(b), nil
}

// What is not gossip shares the budget of the link: both together keep to it, in pieces that what
// is urgent can get between.
func TestAllowanceSharesTheBudget(t *testing.T) {
	for name, attached := range map[string]bool{"a session": true, "none": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const rate = 8 << 10
				a := newNodeWith(t, 1, func(c *Config) { c.Terms = func(spiffeid.ID) Terms { return Terms{Budget: rate} } })
				peer := nodeID(2)
				if attached {
					connect(a, newNode(t, 2))
				}
				settle(5 * time.Second)
				allowed, err := a.Allowance(t.Context(), peer)
				if err != nil || allowed.Rate() != rate {
					t.Fatal(err, allowed.Rate())
				}
				var out counted
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				n, err := allowed.Writer(ctx, &out).Write(make([]byte, 1<<20))
				if err == nil || n != out.bytes {
					t.Fatalf("%d bytes: %v", n, err)
				}
				if most := rate * 22; n > most || n < most*3/4 {
					t.Errorf("%d bytes in 20 s, want about %d", n, most)
				}
				if out.largest > rate/8 {
					t.Errorf("%d bytes at once", out.largest)
				}
				if err := a.do(t.Context(), func() error {
					if attached != (len(a.attached) == 1 && a.attached[0].out == allowed.q) {
						t.Error("the gossip of that link does not pay for it")
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
	var out counted
	if n, err := (Allowance{}).Writer(t.Context(), &out).Write(make([]byte, 1<<20)); n != 1<<20 || err != nil || out.largest != n {
		t.Errorf("without a limit: %d bytes, %v, %d at once", n, err, out.largest)
	}
}
