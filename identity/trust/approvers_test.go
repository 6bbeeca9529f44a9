package trust

import (
	"crypto/ecdsa"
	"errors"
	"testing"
)

// Whose approval releases need is in the record that the global keys sign, and none of them is a
// key that the region's own nodes hold.
func TestApproversOfReleases(t *testing.T) {
	global, a, b := newKey(t), newKey(t), newKey(t)
	r := record(t, "east", east, 1)
	if plain := sign(t, r, global); len(mustVerify(t, plain, global).Approvers.Keys) != 0 {
		t.Error("a record without approvers has some")
	}
	r.Approvers = Approvers{Threshold: 2, Keys: publics(a, b)}
	got := mustVerify(t, sign(t, r, global), global).Approvers
	if got.Threshold != 2 || len(got.Keys) != 2 || !got.Keys[0].Equal(&a.PublicKey) || !got.Keys[1].Equal(&b.PublicKey) {
		t.Errorf("got %+v", got)
	}
	for name, bad := range map[string]Approvers{
		"more than there are":     {3, publics(a, b)},
		"none needed":             {0, publics(a, b)},
		"fewer than none":         {-1, publics(a, b)},
		"nobody to approve":       {1, nil},
		"one twice":               {2, publics(a, a)},
		"no key":                  {1, publics(nil)},
		"the authority's own key": {1, []*ecdsa.PublicKey{r.AuthorityKey}},
		"the policy key":          {1, []*ecdsa.PublicKey{&a.PublicKey, r.PolicyKey}},
		"too many": {1, func() (all []*ecdsa.PublicKey) {
			for range maxApprovers + 1 {
				all = append(all, &newKey(t).PublicKey)
			}
			return all
		}()},
	} {
		r.Approvers = bad
		if _, err := Draft(r); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func mustVerify(t *testing.T, b []byte, global *ecdsa.PrivateKey) Record {
	t.Helper()
	r, err := Verify(b, publics(global), 1, now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
