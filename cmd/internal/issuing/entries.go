package issuing

import (
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

// entries reads the configured files of registration entries, and until when the
// join tokens they name are good.
func (i *Role) entries() (out []issuer.Entry, tokens map[config.Hash]time.Time, err error) {
	td := i.Node.Node.TrustDomain()
	tokens = map[config.Hash]time.Time{}
	for _, path := range i.Node.Issuer.Entries {
		file, err := config.LoadEntries(string(path), td)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range file {
			entry, err := EntryOf(e, td)
			if err != nil {
				return nil, nil, err
			}
			if !e.Token.IsZero() {
				if tokens[e.Token] = i.tokens[e.Token]; tokens[e.Token].IsZero() {
					tokens[e.Token] = time.Now().Add(tokenLife)
				}
			}
			out = append(out, entry)
		}
	}
	return out, tokens, nil
}

// CheckEntries reads the files of registration entries that c names, and returns all
// that keeps an issuer from using them.
func CheckEntries(c config.Config) error {
	td := c.Node.TrustDomain()
	var all []issuer.Entry
	var errs []error
	for _, path := range c.Issuer.Entries {
		file, err := config.LoadEntries(string(path), td)
		errs = append(errs, err)
		for _, e := range file {
			entry, err := EntryOf(e, td)
			errs, all = append(errs, err), append(all, entry)
		}
	}
	return errors.Join(append(errs, issuer.CheckEntries(td, all))...)
}

// EntryOf is an entry of a file in the issuer's words.
func EntryOf(e config.Entry, td spiffeid.TrustDomain) (issuer.Entry, error) {
	parent, err := parentOf(e, td)
	return issuer.Entry{
		SPIFFEID: e.ID, ParentID: parent, Selectors: e.Selectors, Class: e.Class, X509TTL: e.Lifetime, JWTTTL: e.JWTLifetime,
		FederatesWith: e.FederatesWith, DNSNames: e.DNSNames, Hint: e.Hint, Expires: e.Expires,
	}, err
}

// admit lets in who shows one of the tokens. A token works once in the region, so it is
// for the issuer beside the authority: where others find it in the same files, they
// take nobody by it.
func (i *Role) admit(tokens map[config.Hash]time.Time) {
	if i.Branch.office == nil {
		clear(tokens)
	}
	var joins []issuer.Token
	for hash, expires := range tokens {
		joins = append(joins, issuer.Token{Hash: hash, Expires: expires})
	}
	i.joins.Set(joins)
	i.tokens = tokens
}

// parentOf is the ID under which whoever gets an entry's identity is known.
func parentOf(e config.Entry, td spiffeid.TrustDomain) (spiffeid.ID, error) {
	switch {
	case !e.EK.IsZero():
		return issuer.AgentID(td, issuer.TPM{}.Type(), e.EK.String())
	case !e.Token.IsZero():
		return issuer.AgentID(td, (&issuer.JoinTokens{}).Type(), e.Token.String())
	case !e.Node.IsZero():
		return e.Node, nil
	}
	return e.Parent, nil
}
