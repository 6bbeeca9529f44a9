package policy

import (
	"context"
	"fmt"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	opametrics "github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// query is a question to one level, compiled: a term of Rego over its data and the input. It may be
// asked by many at once.
type query struct {
	prepared rego.PreparedEvalQuery
	read     storage.Transaction // for all who ask: nothing writes to the store, so it never ends
	idle     sync.Pool           // of *ruleCache
}

// answerVar is how the text of a query names what it asks for.
const answerVar = "v"

// newQuery compiles the question for the value of a term. An error of a built-in function is one of
// the answer. The answer is a term, not turned into JSON.
func newQuery(term string, c *ast.Compiler, store storage.Store) (*query, error) {
	read, err := store.NewTransaction(context.Background())
	if err != nil {
		return nil, err
	}
	prepared, err := rego.New(rego.Query(answerVar+" := "+term), rego.SetRegoVersion(ast.RegoV1), rego.Compiler(c),
		rego.Store(store), rego.Transaction(read), rego.StrictBuiltinErrors(true),
		rego.GenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil })).PrepareForEval(context.Background())
	if err != nil {
		return nil, err
	}
	return &query{prepared: prepared, read: read}, nil
}

// ask returns the value of the term for an input. One that is undefined or ambiguous is an error. Stop
// ends it at any step.
func (q *query) ask(ctx context.Context, in ast.Value, stop topdown.Cancel) (*ast.Term, error) {
	known, _ := q.idle.Get().(*ruleCache)
	if known == nil {
		known = newRuleCache()
	}
	out, err := q.run(ctx, in, stop, rego.EvalVirtualCache(known))
	known.forget()
	q.idle.Put(known)
	return out, err
}

// run asks with options, a tracer among them.
func (q *query) run(ctx context.Context, in ast.Value, stop topdown.Cancel, options ...rego.EvalOption) (*ast.Term, error) {
	results, err := q.prepared.Eval(ctx, append(options, rego.EvalTransaction(q.read), rego.EvalMetrics(opametrics.NoOp()),
		rego.EvalParsedInput(in), rego.EvalExternalCancel(stop))...)
	switch {
	case err != nil:
		return nil, err
	case len(results) != 1:
		return nil, fmt.Errorf("the query gave %d answers, want 1", len(results))
	}
	out, _ := results[0].Bindings[answerVar].(*ast.Term)
	if out == nil {
		return nil, fmt.Errorf("the query gave no answer")
	}
	return out, nil
}
