// SPDX-License-Identifier: Apache-2.0
// One call of each kind, so that the trace shows what libcuda asks of the driver for it.
#include <cuda_runtime.h>
#include <cstdio>
__global__ void k(char*p){ if(p) p[0]=1; }
int main(){ size_t s[]={1,1000,65536,65537,1048575,1048576,1048577,2097152,2097153,3000017,5000000}; 
 cudaFree(0); fprintf(stderr,"--- context done\n");
 for(size_t n:s){ void*p; fprintf(stderr,"cudaMalloc %zu\n",n); cudaMalloc(&p,n);} 
 fprintf(stderr,"launch\n"); k<<<1,1>>>(0); cudaDeviceSynchronize();
 fprintf(stderr,"stack\n"); cudaDeviceSetLimit(cudaLimitStackSize,8192); k<<<1,1>>>(0); cudaDeviceSynchronize();
 fprintf(stderr,"array\n"); cudaArray_t a; cudaChannelFormatDesc d=cudaCreateChannelDesc<float>(); cudaMallocArray(&a,&d,1000,1000);
 fprintf(stderr,"async\n"); void*p; cudaMallocAsync(&p,1000,0); cudaStreamSynchronize(0);
 fprintf(stderr,"streams\n"); for(int i=0;i<8;i++){cudaStream_t st; cudaStreamCreate(&st);} 
 return 0;}
