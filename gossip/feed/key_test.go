package feed

import (
	"errors"
	"strings"
	"testing"
)

func TestParseKey(t *testing.T) {
	owner := func(size int) string { return "/" + strings.Repeat("a", size-1) }
	for name, c := range map[string]struct {
		key  string
		want Key
	}{
		"a node's":               {"/node/n1/service/web", Key{"/node/n1", "service", "web"}},
		"of a node in a zone":    {"/zone/z/node/n1/x-note/a.b", Key{"/zone/z/node/n1", "x-note", "a.b"}},
		"a name of 128 bytes":    {"/n/x-note/" + strings.Repeat("a", maxName), Key{"/n", "x-note", strings.Repeat("a", maxName)}},
		"512 bytes":              {owner(MaxKey-len("/x-note/a")) + "/x-note/a", Key{owner(MaxKey - len("/x-note/a")), "x-note", "a"}},
		"a name of 129 bytes":    {"/n/x-note/" + strings.Repeat("a", maxName+1), Key{}},
		"513 bytes":              {owner(MaxKey-len("/x-note/a")+1) + "/x-note/a", Key{}},
		"nothing":                {"", Key{}},
		"no owner":               {"/x-note/a", Key{}},
		"no owner and no slash":  {"x-note/a", Key{}},
		"no kind":                {"/node/n1//a", Key{}},
		"no name":                {"/node/n1/x-note/", Key{}},
		"the longest kind":       {"/n/" + strings.Repeat("k", maxKind) + "/a", Key{"/n", strings.Repeat("k", maxKind), "a"}},
		"a kind too long":        {"/n/" + strings.Repeat("k", maxKind+1) + "/a", Key{}},
		"a kind like a number":   {"/n/1x/a", Key{}},
		"a kind with underscore": {"/n/x_note/a", Key{}},
		"a kind in capitals":     {"/node/n1/X-note/a", Key{}},
		"an owner without slash": {"node/n1/x-note/a", Key{}},
		"two dots in the owner":  {"/node/../n1/x-note/a", Key{}},
		"a name with an escape":  {"/node/n1/x-note/%61", Key{}},
	} {
		got, err := ParseKey(c.key)
		if got != c.want || errors.Is(err, ErrKey) != (c.want == Key{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err == nil && got.String() != c.key {
			t.Errorf("%s: it comes back as %s", name, got)
		}
	}
}
