// Builds kustomizations and decodes what comes out, strictly, by the types of whoever reads it in a cluster.
//
//	check FOLDER...
//
// writes one JSON object: for each folder the list of its resources. A field that a type does not have, a value of
// another kind, a name that is there twice or a kind that is not expected is written on stderr, and the status is 1.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

var kinds = map[string]func() any{
	"v1/ConfigMap":                                    func() any { return new(core.ConfigMap) },
	"v1/Namespace":                                    func() any { return new(core.Namespace) },
	"v1/PersistentVolumeClaim":                        func() any { return new(core.PersistentVolumeClaim) },
	"v1/Secret":                                       func() any { return new(core.Secret) },
	"v1/Service":                                      func() any { return new(core.Service) },
	"v1/ServiceAccount":                               func() any { return new(core.ServiceAccount) },
	"apps/v1/DaemonSet":                               func() any { return new(apps.DaemonSet) },
	"apps/v1/Deployment":                              func() any { return new(apps.Deployment) },
	"apps/v1/StatefulSet":                             func() any { return new(apps.StatefulSet) },
	"policy/v1/PodDisruptionBudget":                   func() any { return new(policy.PodDisruptionBudget) },
	"networking.k8s.io/v1/NetworkPolicy":              func() any { return new(networking.NetworkPolicy) },
	"autoscaling/v2/HorizontalPodAutoscaler":          func() any { return new(autoscaling.HorizontalPodAutoscaler) },
	"rbac.authorization.k8s.io/v1/ClusterRole":        func() any { return new(rbac.ClusterRole) },
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding": func() any { return new(rbac.ClusterRoleBinding) },
	"rbac.authorization.k8s.io/v1/Role":               func() any { return new(rbac.Role) },
	"rbac.authorization.k8s.io/v1/RoleBinding":        func() any { return new(rbac.RoleBinding) },
	"monitoring.coreos.com/v1/Alertmanager":           func() any { return new(monitoring.Alertmanager) },
	"monitoring.coreos.com/v1/PodMonitor":             func() any { return new(monitoring.PodMonitor) },
	"monitoring.coreos.com/v1/Prometheus":             func() any { return new(monitoring.Prometheus) },
	"monitoring.coreos.com/v1/PrometheusRule":         func() any { return new(monitoring.PrometheusRule) },
	"monitoring.coreos.com/v1/ServiceMonitor":         func() any { return new(monitoring.ServiceMonitor) },
}

// By their custom resource definition: the caller checks these. Their Go types need most of Kubernetes' own code.
var byDefinition = map[string]bool{"opentelemetry.io/v1alpha1/Instrumentation": true}

func main() {
	failed := false
	found := map[string][]json.RawMessage{}
	for _, folder := range os.Args[1:] {
		resources, problems := check(folder)
		found[folder] = resources
		for _, problem := range problems {
			failed = true
			fmt.Fprintf(os.Stderr, "%s: %v\n", folder, problem)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil || failed {
		os.Exit(1)
	}
}

func check(folder string) (resources []json.RawMessage, problems []error) {
	options := krusty.MakeDefaultOptions()
	// The Collector's files stand above the kustomization, where the other ways to run it find them too.
	options.LoadRestrictions = types.LoadRestrictionsNone
	made, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return nil, []error{err}
	}
	for _, resource := range made.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			problems = append(problems, err)
			continue
		}
		kind := resource.GetApiVersion() + "/" + resource.GetKind()
		if typed, known := kinds[kind]; known {
			if err := yaml.UnmarshalStrict(text, typed()); err != nil {
				problems = append(problems, fmt.Errorf("%s %s: %w", kind, resource.GetName(), err))
			}
		} else if !byDefinition[kind] {
			problems = append(problems, fmt.Errorf("%s %s is not expected", kind, resource.GetName()))
		}
		plain, err := yaml.YAMLToJSON(text)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		resources = append(resources, plain)
	}
	return resources, problems
}
