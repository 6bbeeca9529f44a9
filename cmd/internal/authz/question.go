package authz

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"unicode"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Question is what a neighbour asks.
type Question struct {
	API     string          // ext_authz or authzen
	Subject spiffeid.ID     // zero: the program that asks
	Service string          // full name, <service>.<region>.mesh
	Request *policy.Request // nil: may the subject connect?
	// Err is what is wrong with the question: it is to be denied, and recorded as denied.
	Err error
}

// Decider decides and records. It denies who asks about another subject than itself and may not.
type Decider interface {
	Decide(ctx context.Context, from *local.Caller, q Question) policy.Decision
}

// ErrQuestion means that a neighbour asked what cannot be decided. It was answered by no. The text
// names the field and what is wrong with it and never quotes the caller: it is recorded.
var ErrQuestion = errors.New("the question cannot be decided")

// ErrNotReady means that the node cannot decide yet. It was answered by no; asking again a moment
// later helps.
var ErrNotReady = errors.New("the node cannot decide yet")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrQuestion, fmt.Sprintf(format, args...))
}

// The longest path and the longest host, in bytes.
const (
	maxPath = 4 << 10
	maxHost = 255
)

// segments splits the path of a request target, decoded, or says why it has more than one reading.
func segments(target string) ([]string, error) {
	path, _, _ := strings.Cut(target, "?")
	if len(path) > maxPath {
		return nil, bad("a path of %d bytes, at most %d", len(path), maxPath)
	}
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return nil, bad("the path does not begin with a slash")
	}
	if rest = strings.TrimSuffix(rest, "/"); rest == "" {
		if len(path) > 1 {
			return nil, bad("the path has an empty segment")
		}
		return nil, nil
	}
	parts := strings.Split(rest, "/")
	if len(parts) > policy.MaxList {
		return nil, bad("a path of %d segments, at most %d", len(parts), policy.MaxList)
	}
	for i, part := range parts {
		decoded, err := url.PathUnescape(part)
		switch {
		case err != nil:
			return nil, bad("path segment %d: a percent sign that begins no escape", i+1)
		case strings.TrimFunc(decoded, func(r rune) bool { return r == '.' || unicode.IsSpace(r) }) == "":
			return nil, bad("path segment %d: empty segments, and those of dots and spaces, have more than one reading", i+1)
		case strings.ContainsAny(decoded, "/\\;%?#"):
			return nil, bad("path segment %d: a slash, backslash, semicolon, percent sign, question mark or hash within has more than one reading", i+1)
		case strings.ContainsFunc(decoded, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }):
			return nil, bad("path segment %d: control characters and what is not UTF-8 have more than one reading", i+1)
		}
		parts[i] = decoded
	}
	return parts, nil
}

// request puts an HTTP request into the words of policy. get returns the value of a header, and
// whether there is one.
func request(method, host, target string, allowed []string, get func(name string) (string, bool)) (*policy.Request, error) {
	if method == "" || len(method) > 32 || strings.ContainsFunc(method, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' }) {
		return nil, bad("the method: want at most 32 capital letters and hyphens")
	}
	path, err := segments(target)
	if err != nil {
		return nil, err
	}
	bare := bareHost(host)
	if len(bare) > maxHost {
		return nil, bad("a host of %d bytes, at most %d", len(bare), maxHost)
	}
	r := &policy.Request{Method: method, Host: bare, Path: path}
	for _, name := range allowed {
		if v, ok := get(name); ok && name != config.ForwardedCert {
			if r.Headers == nil {
				r.Headers = map[string]string{}
			}
			r.Headers[name] = v
		}
	}
	return r, nil
}

// bareHost is a host without its port, as a name is compared: a dot at its end does not count.
func bareHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// subject reads a SPIFFE ID; empty is the program that asks.
func subject(id string) (spiffeid.ID, error) {
	if id == "" {
		return spiffeid.ID{}, nil
	}
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return spiffeid.ID{}, bad("the subject is no SPIFFE ID: %v", err)
	}
	return parsed, nil
}
